"""Clients written by others, unmodified: redis-py, redis-cli, redis-benchmark."""

import asyncio
import subprocess
from collections.abc import Iterator

import pytest
import redis
import redis.asyncio

from tests.kv.fake_front_end import FakeServer, serving
from tests.kv.redis_oracle import need


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with serving() as running:
        yield running


@pytest.mark.parametrize("protocol", [2, 3])
def test_redis_py_works(server: FakeServer, protocol: int) -> None:
    with redis.Redis(port=server.port, protocol=protocol, client_name="tester") as client:
        assert client.ping()
        assert client.set("a", b"\x00\r\n\xff")
        assert client.get("a") == b"\x00\r\n\xff"
        assert client.incr("n", 5) == 5
        assert client.mget("a", "absent", "n") == [b"\x00\r\n\xff", None, b"5"]
        assert client.expire("n", 100)
        assert 0 < client.ttl("n") <= 100
        assert client.delete("a", "n", "absent") == 2
        assert client.client_getname() in ("tester", b"tester")  # redis-py decodes in one version
        assert client.client_info()["lib-name"].startswith("redis-py")
        assert len(client.client_list()) == 1
        info = client.info()
        assert info["redis_version"] == "7.2.4"
        assert info["loading"] == 0
        assert info["raft_groups"] == 4
        assert client.info("replication")["role"] == "master"
        assert client.config_get("save") == {"save": ""}
        assert client.config_get("max*")["maxclients"] == "10000"
        assert client.command_count() == len(client.command())
        assert client.command()["mset"]["step_count"] == 2
        assert len(client.command_getkeys("MSET", "a", 1, "b", 2)) == 2
        assert client.time()[0] > 0
        assert client.execute_command("CONFIG RESETSTAT")
        assert server.front_end.statistics_resets == 1
        with pytest.raises(redis.ResponseError, match="CONFIG SET failed"):
            client.config_set("maxmemory", 1)
        client.set("s", "x")
        with pytest.raises(redis.ResponseError, match="value is not an integer"):
            client.incr("s")


@pytest.mark.parametrize("protocol", [2, 3])
def test_redis_py_pipelines_work(server: FakeServer, protocol: int) -> None:
    with (
        redis.Redis(port=server.port, protocol=protocol) as client,
        client.pipeline(transaction=False) as pipeline,
    ):
        for number in range(500):
            pipeline.set(f"k{number}", number).get(f"k{number}")
        results = pipeline.execute()
    assert results == [r for number in range(500) for r in (True, b"%d" % number)]


def test_redis_asyncio_works(server: FakeServer) -> None:
    async def use() -> list[object]:
        async with redis.asyncio.Redis(port=server.port) as client:
            return list(await asyncio.gather(*(client.incr(f"n{i % 5}") for i in range(50))))

    assert sorted(asyncio.run(use())) == sorted(list(range(1, 11)) * 5)  # type: ignore[type-var]  # ints


def test_redis_cluster_client_works(server: FakeServer) -> None:
    client = redis.RedisCluster(host="127.0.0.1", port=server.port)
    try:
        for number in range(50):
            assert client.set(f"k{number}", number)
        assert [client.get(f"k{number}") for number in range(50)] == [
            b"%d" % number for number in range(50)
        ]
        assert client.mget_nonatomic("k1", "k2") == [b"1", b"2"]
        assert client.cluster_info()["cluster_state"] == "ok"
    finally:
        client.close()


def cli(server: FakeServer, *arguments: str, stdin: str = "") -> str:
    done = subprocess.run(
        [need("redis-cli"), "-p", str(server.port), *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    return done.stdout


def test_redis_cli_works(server: FakeServer) -> None:
    assert cli(server, "set", "a", "1") == "OK\n"
    assert cli(server, "-3", "get", "a") == "1\n"
    assert cli(server, "-3", "hello").startswith("server redis\nversion 7.2.4\nproto 3\n")
    assert cli(server, "nosuch") == ("ERR unknown command 'nosuch', with args beginning with: \n\n")
    assert cli(server, stdin="set b 2\nget b\n") == "OK\n2\n"
    assert cli(server, "--scan") in ("a\nb\n", "b\na\n")
    assert "cluster_state:ok" in cli(server, "cluster", "info")
    assert len(cli(server, "cluster", "nodes").splitlines()) == 6
    assert "redis_version:7.2.4" in cli(server, "info", "server")
    assert cli(server, "-c", "get", "a") == "1\n"


@pytest.mark.parametrize("flags", [[], ["--cluster"]])
def test_redis_benchmark_works(server: FakeServer, flags: list[str]) -> None:
    done = subprocess.run(
        [
            *(need("redis-benchmark"), "-p", str(server.port), "-n", "2000", "-P", "16", "--csv"),
            *("-t", "ping,set,get,incr" + (",mset" if not flags else "")),
            *flags,
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "ERR" not in done.stdout + done.stderr
    for name in ("PING_INLINE", "PING_MBULK", "SET", "GET", "INCR"):
        assert f'"{name}"' in done.stdout
