"""Snapshots in running nodes: logs are cut, a replica that was away is brought back by express."""

import contextlib
import os
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.cluster.kit import Cluster, Node, running_cluster, wait_for
from tests.cluster.workload import Workload, connect, missing_writes

LOG_BYTES = 64 << 10
AWAY = 3
"""The node that is away while the others cut their logs."""
TICKS = "tick_milliseconds = 20"
OPTIONS = {
    "snapshot": f"log_bytes = {LOG_BYTES}",
    "storage": "segment_bytes = 1048576",
    "client": "value_bytes_max = 65536\nquery_buffer_bytes_max = 1048576",
    "raft": TICKS,
    "peer": "reconnect_seconds_max = 0.3",
}


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
    directory: Path, *, groups: int, keys: int, value_bytes: int, snapshot: str = ""
) -> Iterator[tuple[Cluster, dict[str, str]]]:
    """Run three nodes, one of which was away while the others cut their logs; it is down.

    Yields what was written, too.
    """
    options = OPTIONS | {"snapshot": f"{OPTIONS['snapshot']}\n{snapshot}"}
    with running_cluster(directory, 3, shards=1, groups=groups, extra=options) as cluster:
        cluster[AWAY].kill()
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
        yield cluster, written


def lead_and_read(cluster: Cluster, groups: int, written: dict[str, str]) -> list[str]:
    """Let the node that was away lead, from its own disk; return what it has not got as written.

    So its state is that of the others, since each has as many keys.
    """
    nodes = [*cluster]

    def are_equal() -> bool:
        applied = {metric(node, "rafter_raft_applied_index") for node in nodes}
        return len(applied) == 1 and {metric(node, "rafter_keys") for node in nodes} == {
            len(written)
        }

    wait_for(are_equal, "all nodes have applied the same")
    for node in nodes:
        node.kill()
        if node.node != AWAY:
            patient = f'{TICKS}\nelection_timeout_ticks = 200\nfirst_leader = "none"'
            node.config_path.write_text(node.config_path.read_text().replace(TICKS, patient))
    for node in nodes:
        node.start()
    for node in nodes:
        node.wait_ready()
    assert {cluster.leader_of(group) for group in range(1, groups + 1)} == {AWAY}
    return missing_writes(cluster[AWAY].client_port, written)


def test_a_follower_that_was_away_gets_the_snapshot_and_catches_up_under_load(
    tmp_path: Path,
) -> None:
    with lagging_follower(tmp_path, groups=2, keys=100, value_bytes=1000) as (cluster, written):
        away, others = cluster[AWAY], [cluster[1], cluster[2]]
        with Workload([node.client_port for node in others], writers=3, pipeline=4) as workload:
            away.start()
            wait_for(
                lambda: metric(away, "rafter_snapshots_installed_total") >= 2, "snapshots are there"
            )
            away.wait_ready()
            installed = workload.acknowledged_count
            wait_for(lambda: workload.acknowledged_count > installed + 100, "writes go on")
        written |= workload.acknowledged()
        assert lead_and_read(cluster, 2, written) == []


# ---- in the middle of a transfer ---------------------------------------------------------------

KEYS, VALUE_BYTES = 120, 16_000
STATE_BYTES = KEYS * VALUE_BYTES
SLOWLY = f"chunk_bytes = 16384\ntransfers_max = 1\nbytes_per_second = {2 << 20}"


def slow_transfer(
    directory: Path,
) -> contextlib.AbstractContextManager[tuple[Cluster, dict[str, str]]]:
    """As `lagging_follower`, with a snapshot that takes about a second to come."""
    return lagging_follower(
        directory, groups=1, keys=KEYS, value_bytes=VALUE_BYTES, snapshot=SLOWLY
    )


def received_bytes(node: Node) -> int:
    """Return how much of a snapshot, and not yet all of it, is on the disk of its receiver."""
    for path in node.data_directory.glob("snapshots/*/*.receiving/image"):
        with contextlib.suppress(FileNotFoundError):
            return path.stat().st_size
    return 0


def wait_for_part(node: Node, part: float) -> int:
    """Wait until so much of a snapshot, and not yet all of it, has come; return how much."""

    def has_come() -> int | None:
        came_bytes = received_bytes(node)
        return came_bytes if came_bytes >= STATE_BYTES * part else None

    return wait_for(has_come, f"{part:.0%} of the snapshot has come")


def leads(node: Node) -> bool:
    """Whether a node leads group 1, as its metrics say."""
    return 'rafter_raft_is_leader{group="1"} 1.0' in node.http("/metrics")[1]


def sender_of(cluster: Cluster) -> Node:
    """Return the node that leads group 1: one of those that were not away."""
    wait_for(lambda: any(leads(cluster[node]) for node in (1, 2)), "the group has a leader")
    return cluster[1] if leads(cluster[1]) else cluster[2]


def test_kills_of_the_receiver_all_along_cost_a_snapshot_nearly_nothing(
    tmp_path: Path,
) -> None:
    """Bug 32: a receiver that restarts in mid-transfer. It goes on where it was.

    It is the process that receives which is killed each time, and now and then the whole node with
    it: then the next life begins without the supervisor's growing pauses.
    """
    with slow_transfer(tmp_path) as (cluster, written):
        away = cluster[AWAY]
        away.start()
        came_bytes = wait_for_part(away, 0.1)
        kills = 0
        # Not at the very end: a kill behind it would be another test.
        while 0 < came_bytes < 0.85 * STATE_BYTES:
            kills += 1
            if kills % 3 == 0:
                away.kill()
                away.start()
            else:
                kill_shards(away)
            came_bytes = wait_for_more(away, came_bytes)
        wait_for(
            lambda: metric(away, "rafter_snapshots_installed_total") == 1, "the snapshot is there"
        )
        sent_bytes = sum(
            metric(cluster[node], "rafter_snapshot_sent_bytes_total") for node in (1, 2)
        )
        assert STATE_BYTES < sent_bytes < 1.5 * STATE_BYTES
        log = away.log()
        assert 3 <= kills == log.count("chunks of the snapshot of index")
        assert log.count("installed the snapshot of index") == 1
        assert lead_and_read(cluster, 1, written) == []


def wait_for_more(node: Node, before_bytes: int) -> int:
    """Wait for the next sixth of a snapshot; return how much has come, 0 if that is all."""

    def has_come() -> tuple[int] | None:
        came_bytes = received_bytes(node)
        is_enough = came_bytes >= before_bytes + STATE_BYTES // 6
        return (came_bytes,) if is_enough or not came_bytes else None

    return wait_for(has_come, "another sixth of the snapshot has come")[0]


def kill_shards(node: Node) -> None:
    """Kill -9 all shards; their supervisor starts them again."""
    shards = node.shard_pids()
    assert len(shards) == 1
    for pid in shards:
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not set(shards) & set(node.shard_pids()), "the supervisor has noticed")


def test_kills_of_the_sender_in_mid_transfer_do_not_stop_a_snapshot(tmp_path: Path) -> None:
    """The next leader sends its own, which may be another one, from its beginning."""
    with slow_transfer(tmp_path) as (cluster, written):
        away = cluster[AWAY]
        away.start()
        for part in (0.1, 0.5, 0.9):
            wait_for_part(away, part)
            sender = sender_of(cluster)
            sender.kill()
            sender.start()
        assert lead_and_read(cluster, 1, written) == []


@contextmanager
def stopped(node: Node) -> Iterator[None]:
    """Let a node's processes stand still, as if its machine did; its connections stay."""
    assert node.process is not None
    pids = [node.process.pid, *node.shard_pids()]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def test_a_change_of_leaders_in_mid_transfer_does_not_stop_a_snapshot(tmp_path: Path) -> None:
    """The deposed leader's connection stays, and makes room for its successor's."""
    with slow_transfer(tmp_path) as (cluster, written):
        away = cluster[AWAY]
        away.start()
        wait_for_part(away, 0.3)
        sender = sender_of(cluster)
        successor = cluster[3 - sender.node]
        with stopped(sender):
            wait_for(lambda: leads(successor), "another node leads")
            wait_for(
                lambda: metric(away, "rafter_snapshots_installed_total") == 1, "its snapshot comes"
            )
        assert lead_and_read(cluster, 1, written) == []
