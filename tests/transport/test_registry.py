"""The registry: addresses, what hellos teach it, and the nodes it refuses."""

import pytest

from rafter_transport import NodeInfo, Registry, UnknownNodeError
from tests.transport.support import make_hello

NODES = {2: ("b.example", 17479), 1: ("a.example", 17379), 3: ("c.example", 65530)}


def test_addresses_come_from_the_configuration_and_the_shard() -> None:
    registry = Registry(1, NODES)
    assert registry.nodes() == (1, 2, 3)
    assert registry.peer_address(2, 0) == ("b.example", 17479)
    assert registry.peer_address(2, 3) == ("b.example", 17482)
    assert registry.peer_address(3, 5) == ("c.example", 65535)
    with pytest.raises(ValueError, match="node 3 shard 6 has no port: base is 65530"):
        registry.peer_address(3, 6)
    with pytest.raises(ValueError, match="node 2 shard -1 has no port"):
        registry.peer_address(2, -1)
    with pytest.raises(UnknownNodeError, match="node 4 is not in the registry"):
        registry.peer_address(4, 0)


def test_a_hello_teaches_what_configuration_does_not_say() -> None:
    registry = Registry(1, NODES)
    assert registry.shard_count(2) is None
    assert registry.node_info(2) == NodeInfo(2, "b.example", 17479)
    hello = make_hello(2, shard=1, shards=4, client_host="b", client_port=8000)
    assert registry.check(hello) is None
    registry.learn(hello)
    assert registry.shard_count(2) == 4
    assert registry.node_info(2) == NodeInfo(2, "b.example", 17479, 4, 102, "b", 8000)
    assert registry.shard_count(9) is None
    with pytest.raises(UnknownNodeError):
        registry.node_info(9)


def test_a_node_that_is_not_configured_is_refused() -> None:
    registry = Registry(1, NODES)
    refusal = registry.check(make_hello(4))
    assert refusal is not None
    assert refusal.code == "unknown-node"
    with pytest.raises(ValueError, match="was not checked"):
        registry.learn(make_hello(4))


def test_a_node_that_lost_its_disk_is_refused_until_this_one_restarts() -> None:
    registry = Registry(1, NODES)
    registry.learn(make_hello(2))
    registry.learn(make_hello(2, shards=2))
    emptied = make_hello(2, incarnation=7)
    refusal = registry.check(emptied)
    assert refusal is not None
    assert refusal.code == "incarnation"
    assert "0000000000000066 and now has 0000000000000007" in refusal.text
    with pytest.raises(ValueError, match="was not checked"):
        registry.learn(emptied)
    assert registry.check(make_hello(2)) is None, "the first one stays welcome"
    assert Registry(1, NODES).check(emptied) is None


@pytest.mark.parametrize(
    ("nodes", "complaint"),
    [
        ({2: ("b", 1)}, "node 1 is not among the nodes"),
        ({1: ("a", 0)}, "peer port 0 must be from 1"),
        ({1: ("a", 65536)}, "peer port 65536"),
        ({1: ("", 5)}, "node 1 has no host"),
        ({1: ("a", 5), 65536: ("b", 5)}, "node id 65536"),
        ({1: ("a", 5), 0: ("b", 5)}, "node id 0"),
    ],
)
def test_impossible_configurations_are_refused(
    nodes: dict[int, tuple[str, int]], complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        Registry(1, nodes)
