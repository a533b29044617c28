"""The registry: addresses, what hellos and the map teach it, and the nodes it refuses."""

from typing import Any

import pytest

from rafter_transport import Hello, NodeInfo, Registry, UnknownNodeError
from tests.transport.support import make_hello

NODES = {2: ("b.example", 17479), 1: ("a.example", 17379), 3: ("c.example", 65530)}
MAPPED = NodeInfo(2, "b2.example", 18000, 4, 102, "clients", 7000)


def moved_hello(host: str, port: int, **changes: Any) -> Hello:
    return make_hello(2, version_max=3, peer_host=host, peer_port=port, **changes)


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


def test_a_node_that_lost_its_disk_is_refused_once_it_was_heard() -> None:
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


def test_a_hello_moves_a_node_and_the_older_places_are_remembered() -> None:
    registry = Registry(1, NODES)
    assert not registry.learn(make_hello(2)), "the older version does not say where it is"
    assert registry.learn(moved_hello("b1.example", 18000))
    assert not registry.learn(moved_hello("b1.example", 18000, shards=2))
    assert registry.peer_address(2, 1) == ("b1.example", 18001)
    assert registry.peer_addresses(2, 1) == [("b1.example", 18001), ("b.example", 17480)]
    assert registry.node_info(2).address == ("b1.example", 18000)


def test_the_latest_news_holds_be_it_of_the_map_or_of_the_node() -> None:
    registry = Registry(1, NODES)
    assert registry.update([MAPPED]) == set()
    assert registry.node_info(2) == MAPPED
    assert registry.shard_count(2) == 4
    registry.learn(moved_hello("b3.example", 19000))
    assert registry.update([MAPPED]) == set(), "this is no news"
    assert registry.node_info(2).address == ("b3.example", 19000)
    assert registry.update([MAPPED._replace(base_port=18500, client_port=7001)]) == set()
    assert registry.peer_addresses(2, 0) == [
        ("b2.example", 18500), ("b3.example", 19000), ("b.example", 17479),
    ]  # fmt: skip
    assert registry.node_info(2).client_port == 7001


def test_links_go_by_the_shards_that_the_node_itself_told() -> None:
    registry = Registry(1, NODES)
    registry.learn(make_hello(2, shards=8))
    registry.update([MAPPED])
    assert registry.shard_count(2) == 8


def test_a_place_without_a_port_for_the_shard_is_left_out() -> None:
    registry = Registry(1, NODES)
    registry.update([NodeInfo(3, "c2.example", 18000, 8, 103, "c", 7000)])
    assert registry.peer_addresses(3, 5) == [("c2.example", 18005), ("c.example", 65535)]
    assert registry.peer_addresses(3, 6) == [("c2.example", 18006)]


def test_the_incarnation_of_the_map_is_the_only_one_allowed() -> None:
    registry = Registry(1, NODES)
    assert registry.update([MAPPED]) == set()
    refusal = registry.check(make_hello(2, incarnation=7))
    assert refusal is not None
    assert refusal.code == "incarnation"
    assert registry.check(make_hello(2)) is None


def test_who_was_heard_before_the_map_spoke_against_it_is_disowned() -> None:
    registry = Registry(1, NODES)
    registry.learn(make_hello(2, incarnation=7, shards=2))
    assert registry.update([MAPPED]) == {2}
    assert registry.check(make_hello(2, incarnation=7)) is not None
    assert registry.node_info(2) == MAPPED


def test_a_map_that_knows_only_the_name_of_a_node_changes_nothing() -> None:
    registry = Registry(1, NODES)
    registry.learn(make_hello(2))
    before = registry.node_info(2)
    assert registry.update([NodeInfo(2, "other.example", 1)]) == set()
    assert registry.node_info(2) == before
    assert registry.peer_addresses(2, 0) == [("b.example", 17479), ("other.example", 1)]


def test_an_incarnation_that_the_map_lets_go_of_may_be_followed_by_any_other() -> None:
    registry = Registry(1, NODES)
    registry.update([MAPPED])
    registry.learn(make_hello(2))
    assert registry.update([MAPPED._replace(incarnation=None)]) == {2}
    assert registry.shard_count(2) is None
    follower = make_hello(2, incarnation=7)
    assert registry.check(follower) is None
    registry.learn(follower)
    assert registry.check(make_hello(2)) is not None
    assert registry.update([MAPPED._replace(incarnation=7)]) == set()
    assert registry.shard_count(2) == 1


def test_the_map_brings_new_nodes_and_says_nothing_new_of_this_one() -> None:
    registry = Registry(1, NODES)
    registry.update([NodeInfo(4, "d", 5, 1, 104, "d", 6), NodeInfo(1, "old", 5, 1, 1, "old", 6)])
    registry.update([NodeInfo(5, "e", 5), NodeInfo(4, "d", 7, 1, 104, "d", 6)])
    assert registry.nodes() == (1, 2, 3, 4, 5)
    assert registry.peer_addresses(4, 0) == [("d", 7)]
    assert registry.peer_addresses(1, 0) == [("a.example", 17379)]
    assert registry.check(make_hello(4)) is None


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
