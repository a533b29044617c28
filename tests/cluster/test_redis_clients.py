"""Unmodified Redis clients against one node and three."""

import asyncio
import shutil
import subprocess

import pytest
import redis
import redis.asyncio
from redis.cluster import RedisCluster

from tests.cluster.kit import HOST, Cluster
from tests.cluster.workload import connect

RUN_SECONDS_MAX = 60


def _program(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed")
    return path


@pytest.mark.parametrize("protocol", [2, 3])
def test_redis_py_works_at_every_node(cluster: Cluster, protocol: int) -> None:
    for node in cluster:
        client = connect(node.client_port, protocol)
        prefix = f"py{protocol}{node.node}"
        assert client.ping() is True
        assert client.set(f"{prefix}:a", "1") is True
        assert client.get(f"{prefix}:a") == b"1"
        assert client.incr(f"{prefix}:a", 41) == 42
        assert client.get(f"{prefix}:none") is None
        assert client.set(f"{prefix}:a", "x", nx=True) is None
        assert client.set(f"{prefix}:a", "x", xx=True, get=True) == b"42"
        assert client.expire(f"{prefix}:a", 100) is True
        assert 0 < client.ttl(f"{prefix}:a") <= 100
        assert client.type(f"{prefix}:a") == b"string"
        pairs = {f"{{{prefix}}}:{number}": str(number) for number in range(20)}
        assert client.mset(pairs) is True
        assert client.mget(list(pairs)) == [value.encode() for value in pairs.values()]
        found = set(client.scan_iter(match=f"{{{prefix}}}:*"))
        assert found == {key.encode() for key in pairs}
        assert client.delete(*pairs) == 20
        with pytest.raises(redis.ResponseError, match="not an integer"):
            client.incr(f"{prefix}:a")
        info = client.info()
        assert info["redis_version"].startswith("7.")
        assert info["groups_serving"] > 0
        client.close()


def test_keys_of_all_groups_are_found_from_any_node(cluster: Cluster) -> None:
    nodes = list(cluster)
    first, last = nodes[0], nodes[-1]
    writer, reader = connect(first.client_port), connect(last.client_port)
    names = [f"spread:{number}" for number in range(200)]
    for name in names:
        writer.set(name, name)
    assert reader.mget(names) == [name.encode() for name in names]
    assert sorted(reader.keys("spread:*")) == sorted(name.encode() for name in names)
    assert set(reader.scan_iter(match="spread:*", count=7)) == {name.encode() for name in names}
    assert reader.exists(*names) == 200
    assert reader.dbsize() >= 200
    assert reader.delete(*names) == 200
    assert writer.exists(*names) == 0
    writer.close()
    reader.close()


def test_a_pipeline_keeps_its_order_over_all_groups(cluster: Cluster) -> None:
    first, *_ = cluster
    client = connect(first.client_port)
    pipeline = client.pipeline(transaction=False)
    for number in range(300):
        pipeline.set(f"order:{number % 10}", number)
        pipeline.get(f"order:{number % 10}")
        pipeline.incr(f"order:{number % 10}")
        pipeline.echo(str(number))
    replies = pipeline.execute()
    for number in range(300):
        set_reply, get_reply, incr_reply, echo_reply = replies[4 * number : 4 * number + 4]
        assert set_reply is True
        assert get_reply == str(number).encode(), "a read sees the write before it, not after"
        assert incr_reply == number + 1
        assert echo_reply == str(number).encode()
    client.close()


def test_redis_py_asyncio_works(cluster: Cluster) -> None:
    first, *_ = cluster

    async def session() -> None:
        client = redis.asyncio.Redis(
            host=HOST, port=first.client_port, protocol=3, max_connections=1000
        )
        results = await asyncio.gather(*(client.incr("async:counter") for _ in range(200)))
        assert sorted(results) == list(range(1, 201))
        await client.delete("async:counter")
        await client.aclose()

    asyncio.run(session())


def test_redis_cluster_client_goes_to_the_shards(cluster: Cluster) -> None:
    first, *_ = cluster
    client = RedisCluster(host=HOST, port=first.client_port)
    for number in range(100):
        assert client.set(f"cluster:{number}", number) is True
    assert [client.get(f"cluster:{number}") for number in range(100)] == [
        str(number).encode() for number in range(100)
    ]
    ports = {node.port for node in client.nodes_manager.nodes_cache.values()}
    shards = {node.client_port + 1 + shard for node in cluster for shard in range(2)}
    assert ports <= shards, "shards are announced on their own ports"
    assert client.mget_nonatomic(["cluster:1", "cluster:2"]) == [b"1", b"2"]
    client.close()


def test_redis_cli_works(cluster: Cluster) -> None:
    program = _program("redis-cli")
    for node in cluster:
        for arguments, expected in (
            (["SET", "cli:a", "1"], "OK"),
            (["GET", "cli:a"], "1"),
            (["-3", "INCRBY", "cli:a", "9"], "10"),
            (["-c", "GET", "cli:a"], "10"),
            (["DEL", "cli:a"], "1"),
        ):
            done = subprocess.run(
                [program, "-h", HOST, "-p", str(node.client_port), *arguments],
                capture_output=True, text=True, timeout=RUN_SECONDS_MAX, check=True,
            )  # fmt: skip
            assert done.stdout.strip() == expected, done


def test_redis_benchmark_works(cluster: Cluster) -> None:
    program = _program("redis-benchmark")
    first, *_ = cluster
    for extra in ([], ["--cluster"]):
        done = subprocess.run(
            [
                program, "-h", HOST, "-p", str(first.client_port), "-n", "2000", "-c", "10",
                "-P", "4", "-r", "1000", "-t", "ping,set,get,incr", "--csv", *extra,
            ],
            capture_output=True, text=True, timeout=RUN_SECONDS_MAX, check=True,
        )  # fmt: skip
        assert '"SET"' in done.stdout, done
        assert '"GET"' in done.stdout, done
        assert "ERR" not in done.stderr, done


def test_flushall_empties_every_group(one_node: Cluster) -> None:
    client = connect(one_node[1].client_port)
    for number in range(50):
        client.set(f"flush:{number}", number)
    assert client.flushall() is True
    assert client.dbsize() == 0
    client.close()
