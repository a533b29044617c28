"""Snapshots in running nodes: logs are cut, a replica that was away is brought back by express."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.cluster.kit import Cluster, Node, running_cluster, wait_for
from tests.cluster.workload import Workload, connect, missing_writes

LOG_BYTES = 64 << 10
SNAPSHOT_OFTEN = {"snapshot": f"log_bytes = {LOG_BYTES}", "storage": "segment_bytes = 1048576"}
VALUE_BYTES_LIMIT = {"client": "value_bytes_max = 65536\nquery_buffer_bytes_max = 1048576"}
OPTIONS = {**SNAPSHOT_OFTEN, **VALUE_BYTES_LIMIT}


def metric(node: Node, name: str) -> float:
    """Return the sum of a metric over the shards and groups of a node; 0 while it is down."""
    lines = re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", node.http("/metrics")[1], re.MULTILINE)
    return sum(float(value) for value in lines)


def fill(port: int, keys: int, value_bytes: int, tag: str = "k") -> dict[str, str]:
    """Write keys with values of their own; return them."""
    client = connect(port)
    written = {f"{tag}{number}": f"{number}-".ljust(value_bytes, "v") for number in range(keys)}
    pipeline = client.pipeline(transaction=False)
    for number, (key, value) in enumerate(written.items(), 1):
        pipeline.set(key, value)
        if number % 64 == 0 or number == keys:
            pipeline.execute()
    client.close()
    return written


def test_a_node_cuts_its_log_and_starts_from_its_snapshots(tmp_path: Path) -> None:
    with running_cluster(tmp_path, 1, shards=2, groups=4, extra=OPTIONS) as cluster:
        node = cluster[1]
        written: dict[str, str] = {}
        for _ in range(3):
            before = metric(node, "rafter_snapshots_taken_total")
            # The same keys: the log grows, the state does not.
            for _ in range(4):
                written |= fill(node.client_port, 300, 1000)
            wait_for(
                lambda before=before: metric(node, "rafter_snapshots_taken_total") >= before + 4,  # type: ignore[misc]
                "snapshots are taken",
            )
            node.kill()
            node.start()
            node.wait_ready()
            assert node.log().count("recovered from the snapshot") >= 1
            assert missing_writes(node.client_port, written) == []
        # Two snapshots a group are kept, and the log back to the older one.
        directories = [*node.data_directory.glob("snapshots/*/*")]
        assert len(directories) <= 4 * 3
        # Everything that was written is some 3.6 MB.
        wait_for(
            lambda: metric(node, "rafter_wal_live_bytes") < 4 * 4 * LOG_BYTES + (1 << 20),
            "the log is cut",
        )


@contextmanager
def lagging_follower(
    directory: Path, extra: dict[str, str], *, groups: int, keys: int, value_bytes: int
) -> Iterator[tuple[Cluster, Node, dict[str, str]]]:
    """Run three nodes, one of which was away while the others cut their logs; it is down.

    Yields what was written, too.
    """
    with running_cluster(directory, 3, shards=1, groups=groups, extra=extra) as cluster:
        away = cluster[3]
        away.kill()
        others = [cluster[1], cluster[2]]
        for node in others:
            node.wait_ready()
        written = fill(cluster[1].client_port, keys, value_bytes)

        def are_logs_cut() -> bool:
            # With the second snapshot of a group its log is cut, and they come evenly.
            if all(metric(node, "rafter_snapshots_taken_total") >= 3 * groups for node in others):
                return True
            fill(cluster[1].client_port, keys, value_bytes)
            return False

        wait_for(are_logs_cut, "the logs are cut")
        yield cluster, away, written


def test_a_follower_that_was_away_gets_the_snapshot_and_catches_up_under_load(
    tmp_path: Path,
) -> None:
    with lagging_follower(tmp_path, OPTIONS, groups=2, keys=100, value_bytes=1000) as (
        cluster,
        away,
        written,
    ):
        others = [cluster[1], cluster[2]]
        with Workload([node.client_port for node in others], writers=3, pipeline=4) as workload:
            away.start()
            wait_for(
                lambda: metric(away, "rafter_snapshots_installed_total") >= 2, "snapshots are there"
            )
            away.wait_ready()
            installed = workload.acknowledged_count
            wait_for(lambda: workload.acknowledged_count > installed + 100, "writes go on")
        written |= workload.acknowledged()
        # Now its vote and its data count: one of the others goes.
        leader = wait_for(lambda: cluster.leader_of(1), "group 1 has a leader")
        victim = cluster[leader] if leader != 3 else cluster[1]
        victim.kill()
        wait_for(lambda: cluster.leader_of(1) and cluster.leader_of(2), "the groups have leaders")
        assert missing_writes(away.client_port, written) == []


def test_kills_of_the_receiver_at_each_tenth_and_of_the_sender_do_not_stop_a_snapshot(
    tmp_path: Path,
) -> None:
    """Bug 32: a receiver that restarts in mid-transfer, and a sender that goes on where it was."""
    keys, value_bytes = 120, 16_000
    rate = 2 << 20
    options = {
        **OPTIONS,
        "snapshot": f"log_bytes = {LOG_BYTES}\nchunk_bytes = 16384\n"
        f"transfers_max = 1\nbytes_per_second = {rate}",
    }
    size = keys * value_bytes
    with lagging_follower(tmp_path, options, groups=1, keys=keys, value_bytes=value_bytes) as (
        cluster,
        away,
        written,
    ):
        for tenth in range(1, 10):
            away.start()
            wait_for(
                lambda tenth=tenth: (
                    metric(away, "rafter_snapshot_received_bytes_total")  # type: ignore[misc]
                    >= size * tenth / 10
                ),
                f"{tenth} tenths have come",
            )
            away.kill()
        away.start()
        wait_for(lambda: metric(away, "rafter_snapshot_received_bytes_total") > size / 4, "a part")
        sender = cluster.leader_of(1)
        assert sender != 3
        cluster[sender].kill()
        cluster[sender].start()
        wait_for(
            lambda: metric(away, "rafter_snapshots_installed_total") == 1, "the snapshot is there"
        )
        for node in cluster:
            node.wait_ready()
        cluster[sender].kill()
        wait_for(lambda: cluster.leader_of(1), "the group has a leader")
        assert missing_writes(away.client_port, written) == []
