"""Damaged logs, foreign peers and second servers, with real processes and real disks."""

import subprocess
import sys
from pathlib import Path

import redis

from rafter_storage.record import PREFIX_BYTES
from tests.cluster.kit import START_SECONDS, Cluster, Node, running_cluster, wait_for
from tests.cluster.workload import connect
from tests.storage.verification_support import records_of


def _segments(node: Node, shard: int = 0) -> list[Path]:
    return sorted((node.data_directory / "shards-00001" / f"{shard:05d}" / "wal").glob("*.log"))


def _last_byte_used(path: Path) -> int:
    """Return the offset of the last byte that is not zero."""
    return len(path.read_bytes().rstrip(b"\0")) - 1


def _flip(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 0x40]))


def _verify(node: Node) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "rafterd", "wal", "verify", str(node.data_directory)]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


def test_a_torn_last_record_is_cut_at_start(tmp_path: Path) -> None:
    with running_cluster(tmp_path, 1, shards=1, groups=1) as cluster:
        node = cluster[1]
        client = connect(node.client_port)
        for number in range(50):
            client.set(f"k{number}", number)
        client.close()
        node.kill()
        # Half a record behind the last whole one, as a power cut in the middle of a write leaves.
        path = _segments(node)[-1]
        content = path.read_bytes()
        used = _last_byte_used(path) + 1
        aligned = (used + 7) // 8 * 8
        torn = content[aligned - PREFIX_BYTES - 64 : aligned - 40]
        with path.open("r+b") as file:
            file.seek(aligned)
            file.write(torn)
        node.start()
        node.wait_ready()
        client = connect(node.client_port)
        assert [client.get(f"k{number}") for number in range(50)] == [
            str(number).encode() for number in range(50)
        ]
        assert client.set("later", "1") is True
        client.close()
        node.kill()
        node.start()
        node.wait_ready()
        client = connect(node.client_port)
        assert client.get("later") == b"1"
        client.close()


def test_a_flipped_byte_refuses_that_group_and_says_where(tmp_path: Path) -> None:
    with running_cluster(tmp_path, 1, shards=1, groups=4) as cluster:
        node = cluster[1]
        client = connect(node.client_port)
        for number in range(400):
            client.set(f"k{number}", "v" * 50 + str(number))
        value = b"v" * 50 + b"200"
        client.close()
        node.kill()
        assert _verify(node).returncode == 0
        path = _segments(node)[0]
        offset = path.read_bytes().index(value)
        record = max(start for start, _ in records_of(path) if start < offset)
        _flip(path, offset)
        done = _verify(node)
        assert done.returncode == 1
        assert done.stderr.startswith(f"rafterd: {path}, offset {record}: group "), done.stderr
        node.start()
        wait_for(node.accepts_clients, "the node is alive")
        wait_for(lambda: "is not served" in node.log(), "the log names the damage")
        line = next(line for line in node.log().splitlines() if "is not served" in line)
        assert f"{path}, offset {record}" in line
        status, text = node.http("/readyz?verbose")
        assert status == 503
        assert "group" in text
        client = connect(node.client_port)
        pipeline = client.pipeline(transaction=False)
        for number in range(40):
            pipeline.get(f"k{number}")
        replies = pipeline.execute(raise_on_error=False)
        errors = [str(reply) for reply in replies if isinstance(reply, Exception)]
        values = {number: reply for number, reply in enumerate(replies) if isinstance(reply, bytes)}
        assert errors, "the damaged group does not serve"
        assert all("damaged" in error for error in errors), errors
        assert values, "the other groups serve"
        assert all(value == b"v" * 50 + b"%d" % number for number, value in values.items())
        client.close()


def test_a_damaged_replica_of_three_stays_out_and_the_others_serve(tmp_path: Path) -> None:
    with running_cluster(tmp_path, 3, shards=1, groups=2) as cluster:
        client = connect(cluster[1].client_port)
        for number in range(200):
            client.set(f"k{number}", "v" * 50 + str(number))
        client.close()
        cluster[3].kill()
        path = _segments(cluster[3])[0]
        _flip(path, path.read_bytes().index(b"v" * 50 + b"100"))
        cluster[3].start()
        wait_for(lambda: "is not served" in cluster[3].log(), "the log names the damage")
        wait_for(cluster[3].accepts_clients, "the node is alive")
        client = connect(cluster[3].client_port)
        wait_for(lambda: _reads_all(client), "the damaged node routes to the others")
        assert client.set("later", "1") is True
        client.close()


def _reads_all(client: redis.Redis) -> bool:
    try:
        values = [client.get(f"k{number}") for number in range(200)]
    except redis.RedisError:
        return False
    return values == [b"v" * 50 + str(number).encode() for number in range(200)]


def _is_refused(node: Node, missing: Path) -> None:
    """Start a node that must not start: it ends with an error that says what is missing."""
    node.start()
    assert node.process is not None
    assert node.process.wait(START_SECONDS) == 1
    node.process = None
    line = next(line for line in node.log().splitlines() if f"rafterd: {missing}: " in line)
    assert "restore them, or move the data directory away and have the node replaced" in line


def test_a_node_whose_log_was_emptied_does_not_start_as_if_it_were_new(tmp_path: Path) -> None:
    with running_cluster(tmp_path, 3, shards=1, groups=2) as cluster:
        node = cluster[3]
        client = connect(node.client_port)
        for number in range(50):
            client.set(f"k{number}", number)
        client.close()
        node.kill()
        wal = _segments(node)[0].parent
        wal.rename(tmp_path / "lost")
        _is_refused(node, wal)
        wal.mkdir(mode=0o700)
        _is_refused(node, wal)
        assert not list(wal.iterdir())
        wal.rmdir()
        (tmp_path / "lost").rename(wal)
        node.start()
        node.wait_ready()
        client = connect(node.client_port)
        assert client.get("k49") == b"49"
        client.close()


def test_a_node_that_lost_the_newest_segment_of_its_log_does_not_start(tmp_path: Path) -> None:
    extra = {"client": "value_bytes_max = 131072", "storage": "segment_bytes = 1048576"}
    with running_cluster(tmp_path, 1, shards=1, groups=1, extra=extra) as cluster:
        node = cluster[1]
        client = connect(node.client_port)
        for number in range(15):
            client.set(f"k{number}", bytes(100_000))
        index = _segments(node)[0].with_suffix(".index")
        wait_for(index.exists, "the index of the first segment is written")
        client.close()
        node.kill()
        newest = _segments(node)[-1]
        newest.rename(tmp_path / "lost")
        _is_refused(node, newest)
        (tmp_path / "lost").rename(newest)
        node.start()
        node.wait_ready()
        client = connect(node.client_port)
        assert len(client.get("k14") or b"") == 100_000
        client.close()


def test_a_second_server_on_the_same_data_directory_is_refused(one_node: Cluster) -> None:
    node = one_node[1]
    done = subprocess.run(
        [sys.executable, "-m", "rafterd", "--config", str(node.config_path),
         "--client-listen", "127.0.0.1:0", "--peer-listen", "127.0.0.1:0"],
        capture_output=True, text=True, timeout=30, cwd=node.directory,
    )  # fmt: skip
    assert done.returncode != 0
    done = subprocess.run(
        [sys.executable, "-m", "rafterd", "--set", f"node.data_dir={node.data_directory}",
         "--set", "node.shards=2", "--set", "cluster.groups=5"],
        capture_output=True, text=True, timeout=30, cwd=node.directory,
    )  # fmt: skip
    assert done.returncode != 0
    assert str(node.data_directory) in done.stderr
    assert str(node.process.pid if node.process else 0) in done.stderr, done.stderr
    assert connect(node.client_port).ping() is True


def test_a_peer_of_another_cluster_is_refused_and_logged(tmp_path: Path) -> None:
    ours = Cluster(tmp_path / "ours", 3, groups=2)
    try:
        # Node 3 of another cluster, but at the address where ours expects its node 3.
        text = ours[3].config_path.read_text().replace("[cluster]", '[cluster]\nname = "another"')
        ours[3].config_path.write_text(text)
        for node in ours:
            node.start()
        for node in (ours[1], ours[2]):
            node.wait_ready()
        wait_for(
            lambda: "cluster" in ours[1].log() and "refused" in ours[1].log(),
            "the refusal is logged",
        )
        client = connect(ours[1].client_port)
        assert client.set("a", "1") is True
        client.close()
        metrics = ours[1].http("/metrics")[1] + ours[2].http("/metrics")[1]
        counts = [
            float(line.rsplit(" ", 1)[1])
            for line in metrics.splitlines()
            if line.startswith("rafter_peer_handshakes_refused_total")
        ]
        assert sum(counts) > 0
    finally:
        ours.stop()
