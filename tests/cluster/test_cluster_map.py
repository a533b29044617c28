"""The cluster's map in running nodes: who moved is found again, who was emptied stays out."""

import shutil
from pathlib import Path

import pytest
import redis

from tests.cluster.kit import Cluster, Node, running_cluster, wait_for
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


def write(node: Node, tag: str, keys: int = 60) -> dict[str, str]:
    """Write keys enough to fall into every group; return them."""
    client = connect(node.client_port)
    written = {f"{tag}{number}": f"{tag}-{number}" for number in range(keys)}
    for key, value in written.items():
        client.set(key, value)
    client.close()
    return written


def restart(node: Node) -> None:
    """Stop a node as systemd does, and start it again."""
    assert node.terminate() == 0
    node.start()
    node.wait_ready()


def has_caught_up(node: Node, leader: Node) -> bool:
    """Whether a node has applied in all groups what another one has."""
    name = "rafter_raft_applied_index"
    return node.metric(name) >= leader.metric(name) > 0


def test_a_node_that_moved_is_found_again_also_by_nodes_that_did_not_see_it_move(
    tmp_path: Path,
) -> None:
    with running_cluster(tmp_path, 3, shards=1, groups=3, shards_of_node={3: 2}) as cluster:
        moving, others = cluster[3], [cluster[1], cluster[2]]
        written = write(cluster[1], "before")
        assert moving.terminate() == 0
        written |= write(cluster[1], "while-away")
        moving.move()
        moving.start()
        moving.wait_ready()
        for node in others:
            wait_for(lambda node=node: knows(node, moving), f"{node.node} knows where 3 is")  # type: ignore[misc]
        wait_for(lambda: has_caught_up(moving, cluster[1]), "node 3 has caught up")
        assert missing_writes(moving.client_port, written) == []

        # Now the others forget what they heard; their configuration says where node 3 was.
        assert moving.terminate() == 0
        for node in others:
            restart(node)
            assert knows(node, moving)
        written |= write(cluster[2], "after")
        moving.start()
        moving.wait_ready()
        others[0].kill()
        # Node 2 and node 3 alone make a majority: 2 has found 3 again.
        written |= write(cluster[2], "with-two")
        assert missing_writes(moving.client_port, written) == []


def refusals(node: Node) -> float:
    """Return how many handshakes a node has refused, or was refused in."""
    return node.metric("rafter_peer_handshakes_refused_total")


def assert_shut_out(cluster: Cluster, emptied: Node, by: list[Node]) -> None:
    """Check that nodes refuse an emptied one, count that, and log it once a minute."""
    for node in by:
        before = refusals(node)
        wait_for(lambda: refusals(node) > before + 4, f"node {node.node} refuses it")  # noqa: B023
        assert status(node)[emptied.node][b"state"] == b"unreachable"
    assert emptied.http("/readyz")[0] == 503


def test_an_emptied_node_is_refused_by_all_also_after_they_were_restarted(tmp_path: Path) -> None:
    with running_cluster(tmp_path, 3, shards=1, groups=3) as cluster:
        emptied, others = cluster[2], [cluster[1], cluster[3]]
        written = write(cluster[1], "before")
        emptied.kill()
        shutil.rmtree(emptied.data_directory)
        emptied.start()
        assert_shut_out(cluster, emptied, others)
        written |= write(cluster[1], "after")

        for node in others:
            lines = node.log().count("its data directory was replaced")
            restart(node)
            assert_shut_out(cluster, emptied, [node])
            # Two directions, and two lives of this node.
            assert 1 <= node.log().count("its data directory was replaced") - lines <= 2

        # It can neither vote nor acknowledge: one other node is no majority.
        cluster[3].kill()
        client = connect(cluster[1].client_port)
        with pytest.raises(redis.RedisError):
            client.set("lonely", "1")
        client.close()
        assert_shut_out(cluster, emptied, [cluster[1]])
        cluster[3].start()
        cluster[3].wait_ready()
        cluster[1].wait_ready()
        written |= write(cluster[3], "again")
        assert missing_writes(cluster[1].client_port, written) == []
        for group in (1, 2, 3):
            assert cluster.leader_of(group) in (1, 3)
