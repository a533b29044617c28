"""The cluster's map in running nodes: who moved is found again, who was emptied stays out."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import redis

from tests import warm
from tests.cluster.kit import Cluster, Node, running_cluster, wait_for
from tests.cluster.test_snapshots import OPTIONS, fill
from tests.cluster.workload import connect, missing_writes


def status(node: Node) -> dict[int, dict[bytes, object]]:
    """Return what a node's RAFTER.STATUS says of each node."""
    client = connect(node.client_port, protocol=3)
    try:
        reply = client.execute_command("RAFTER.STATUS")  # type: ignore[no-untyped-call]
    finally:
        client.close()
    return {row[b"id"]: row for row in reply[b"nodes"]}


def knows(node: Node, other: Node) -> bool:
    """Whether a node has learned where another one is dialled and serves clients."""
    row = status(node)[other.node]
    return row[b"address"] == f"127.0.0.1:{other.peer_port}".encode() and (
        row[b"client"] == f"127.0.0.1:{other.client_port}".encode()
    )


def write(node: Node, tag: str, keys: int = 40) -> dict[str, str]:
    """Write keys enough to fall into every group; return them."""
    return fill(node.client_port, keys, 10, tag)


def restart(node: Node) -> None:
    """Kill a node and start it again."""
    node.kill()
    node.start()
    node.wait_ready()


def has_caught_up(node: Node, other: Node) -> bool:
    """Whether a node has applied in all groups what another one has."""
    name = "rafter_raft_applied_index"
    return node.metric(name) >= other.metric(name) > 0


@pytest.mark.long
def test_a_node_that_moved_is_found_again_also_by_nodes_that_did_not_see_it_move(
    tmp_path: Path,
) -> None:
    with running_cluster(tmp_path, 3, shards=1, groups=2, shards_of_node={3: 2}) as cluster:
        moving, others = cluster[3], [cluster[1], cluster[2]]
        moving.kill()
        written = write(cluster[1], "while-away")
        moving.move()
        moving.start()
        moving.wait_ready()
        for node in others:
            wait_for(lambda node=node: knows(node, moving), f"{node.node} knows where 3 is")  # type: ignore[misc]
        wait_for(lambda: has_caught_up(moving, cluster[1]), "node 3 has caught up")

        # Now one forgets what it heard, and its configuration says where node 3 was before.
        moving.kill()
        restart(cluster[2])
        assert knows(cluster[2], moving)
        moving.start()
        moving.wait_ready()
        cluster[1].kill()
        # Node 2 and node 3 alone make a majority: 2 has found 3 again.
        written |= write(cluster[2], "with-two")
        assert missing_writes(moving.client_port, written) == []


REPLACED = "its data directory was replaced"


def assert_shut_out(emptied: Node, by: Node) -> None:
    """Check that a node refuses an emptied one, and goes on to."""
    name = "rafter_peer_handshakes_refused_total"
    before = by.metric(name)
    wait_for(lambda: by.metric(name) > before + 2, f"node {by.node} refuses it")
    assert status(by)[emptied.node][b"state"] == b"unreachable"
    assert emptied.http("/readyz")[0] == 503


def replace(node: Node, other: Node) -> subprocess.CompletedProcess[bytes]:
    """Run the operator's command at a node."""
    words = ("node", "replace", str(other.node), "-o", "plain")
    environment = {**os.environ, "RAFTERCLI_ENDPOINTS": node.endpoint}
    return warm.run("rafter_kv.cli", *words, environment=environment, timeout=30)


def is_in_its_place(node: Node, other: Node) -> bool:
    """Whether a node knows the other one as a full member, and no replacement of it."""
    row = status(node)[other.node]
    return row[b"replacing"] == b"" and row[b"state"] == b"up"


@pytest.mark.long
def test_an_emptied_node_is_refused_by_all_until_it_was_replaced(tmp_path: Path) -> None:
    with running_cluster(tmp_path, 3, shards=1, groups=2, extra=OPTIONS) as cluster:
        first, emptied, third = cluster[1], cluster[2], cluster[3]
        before = status(first)[2][b"incarnation"]
        # As soon as all nodes are in the map.
        wait_for(lambda: b"node 2 is up: stop it" in replace(first, emptied).stderr, "a refusal")
        emptied.kill()
        shutil.rmtree(emptied.data_directory)
        emptied.start()
        written: dict[str, str] = {}

        def are_logs_cut() -> bool:
            # The same keys: the logs grow, the state does not. The emptied one will need snapshots.
            written.update(fill(first.client_port, 150, 1000))
            name = "rafter_snapshots_taken_total"
            return min(first.metric(name), third.metric(name)) >= 3 * 2

        wait_for(are_logs_cut, "the logs are cut")
        for node in (first, third):
            assert_shut_out(emptied, node)
            # Both directions, which count each for itself.
            assert 1 <= node.log().count(REPLACED) <= 2
        restart(first)
        assert_shut_out(emptied, first)

        # It can neither vote nor acknowledge: one other node is no majority.
        third.kill()
        client = connect(first.client_port)
        with pytest.raises(redis.RedisError):
            client.set("lonely", "1")
        client.close()
        assert_shut_out(emptied, first)
        third.start()
        third.wait_ready()
        first.wait_ready()
        assert_shut_out(emptied, third)
        written |= write(third, "without")

        done = replace(third, emptied)
        assert (done.returncode, done.stdout) == (0, b"OK\n"), done.stderr
        for node in (first, third):
            wait_for(lambda: is_in_its_place(node, emptied), "node 2 has its place again")  # noqa: B023
            assert status(node)[2][b"incarnation"] != before
        emptied.wait_ready()
        # Its vote and its data count again.
        first.kill()
        written |= write(third, "with-the-new-one")
        assert missing_writes(emptied.client_port, written) == []
        assert emptied.metric("rafter_snapshots_installed_total") > 0


def test_the_map_is_the_same_on_all_nodes(three_nodes: Cluster) -> None:
    rows = [status(node) for node in three_nodes]
    assert rows[0] == rows[1] == rows[2]
    for node in three_nodes:
        assert knows(node, three_nodes[3])
        assert node.metric('rafter_raft_has_leader{group="0"}') == 1
