"""What the connections of a shard see of the node, over real shared words and a real registry."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rafter_kv.connection import RespConnection
from rafter_kv.reply_slot import ReplySlot
from rafter_kv.slots import SLOT_COUNT, slot_of
from rafter_transport import Registry
from rafterd.client_front import ClientFront, client_limits
from rafterd.map_messages import Publication
from rafterd.map_requests import MapRequests
from rafterd.node_status import StatusGatherer
from rafterd.router import Router
from rafterd.shared import Counter, GroupState, GroupWord, SharedState
from tests.daemon.shard_kit import make_config
from tests.transport.support import make_hello


class NoLinks:
    """The `Post` of a node that no link leads from."""

    def post(self, node: int, shard: int, channel: Any, item: Any) -> bool:
        return False

    def flush(self) -> None:
        """There is nothing to send."""


class Bench:
    def __init__(self, directory: Path, *, nodes: int = 1, shards: int = 2, shard: int = 1) -> None:
        self.config = config = make_config(directory, nodes=nodes, shards=shards, groups=4)
        self.shared = SharedState(shards, 4)
        addresses = {n: (a.host, a.port) for n, a in config.nodes.items()}
        self.registry = Registry(1, addresses)
        own = make_hello(1, shards=shards, client_host="here", client_port=config.client.port)
        self.registry.learn(own)
        self.scheduled = 0
        self.router = Router(
            node=1,
            shard=shard,
            routes={group: config.members(group) for group in range(1, 5)},
            services={},
            post=NoLinks(),
            shard_counts=self.registry,
            shared=self.shared,
            request_timeout_seconds=1.0,
            now_seconds=lambda: 0.0,
            schedule=self._schedule,
        )
        status = StatusGatherer(
            config, self.shared, self.registry, NoLinks(), lambda *_: None, self._schedule,
            lambda: (),
        )  # fmt: skip
        map_requests = MapRequests(
            node=1, shard=shard, shared=self.shared, sender=NoLinks(),
            call_later=lambda *_: None, schedule=self._schedule,
            publication=lambda: Publication(0, []),
        )  # fmt: skip
        self.front = ClientFront(
            config=config,
            shard=shard,
            shared=self.shared,
            registry=self.registry,
            router=self.router,
            status=status,
            map_requests=map_requests,
        )

    def _schedule(self) -> None:
        self.scheduled += 1


class Touched(RespConnection):
    """A connection that counts its flushes; flushing can touch it again."""

    __slots__ = ("again", "flushes")

    def __init__(self, front: ClientFront, again: int = 0) -> None:
        super().__init__(front)
        self.flushes = 0
        self.again = again

    def flush_replies(self) -> None:
        self.flushes += 1
        if self.flushes <= self.again:
            self.front_end.touch(self)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_every_slot_has_a_group(bench: Bench) -> None:
    front = bench.front
    assert len(front.group_by_slot) == SLOT_COUNT
    assert sorted(set(front.group_by_slot)) == front.groups == [1, 2, 3, 4]


def test_a_touched_connection_is_flushed_once_at_the_end_of_the_round(bench: Bench) -> None:
    connection = Touched(bench.front)
    bench.front.touch(connection)
    assert bench.scheduled == 1
    bench.front.flush_replies()
    bench.front.flush_replies()
    assert connection.flushes == 1


def test_a_connection_touched_by_a_flush_is_flushed_in_the_same_round(bench: Bench) -> None:
    connection = Touched(bench.front, again=2)
    bench.front.touch(connection)
    bench.front.flush_replies()
    assert connection.flushes == 3


def test_client_ids_of_the_shards_of_a_node_never_meet(tmp_path: Path) -> None:
    fronts = [Bench(tmp_path, shards=3, shard=shard).front for shard in range(3)]
    ids = [front.next_client_id() for front in fronts for _ in range(50)]
    assert len(set(ids)) == 150
    assert min(ids) > 0


def test_the_limits_are_those_of_the_configuration(tmp_path: Path) -> None:
    config = make_config(
        tmp_path,
        client__connections_max=7,
        client__key_bytes_max=99,
        client__pipeline_commands_max=55,
        client__output_buffer_bytes_max=20000,
    )
    limits = client_limits(config)
    assert limits.connections_max == 7
    assert limits.key_bytes_max == 99
    assert limits.unanswered_commands_max == 55
    assert limits.write_buffer_bytes_max == 20000
    assert limits.value_bytes_max == config.client.value_bytes_max


def test_the_cluster_is_shown_as_far_as_it_was_heard(tmp_path: Path) -> None:
    bench = Bench(tmp_path, nodes=3)
    assert [node.node for node in bench.front.cluster_view().nodes] == [1]
    bench.registry.learn(make_hello(3, shards=2, client_host="there", client_port=6000))
    view = bench.front.cluster_view()
    assert (view.cluster_id, view.node, view.shard) == (bench.config.cluster_id, 1, 1)
    assert [node.node for node in view.nodes] == [1, 3]
    assert view.nodes[1].host == "there"
    assert (view.nodes[1].port, view.nodes[1].shard_ports) == (6000, (6001, 6002))
    assert view.nodes[0].shard_ports == (bench.config.client.port + 1, bench.config.client.port + 2)


def test_groups_are_shown_with_their_slots_and_present_leaders(tmp_path: Path) -> None:
    bench = Bench(tmp_path, nodes=3)
    bench.shared.set_route(2, 3, 9)
    groups = bench.front.cluster_view().groups
    assert [group.group for group in groups] == [1, 2, 3, 4]
    assert (groups[0].slot_first, groups[-1].slot_last) == (0, SLOT_COUNT - 1)
    assert [(group.leader, group.term) for group in groups] == [(0, 0), (3, 9), (0, 0), (0, 0)]
    assert all(group.replicas == (1, 2, 3) for group in groups)


def test_information_is_summed_over_the_shards_of_the_node(bench: Bench) -> None:
    shared = bench.shared
    for shard in (0, 1):
        shared.set_counter(shard, Counter.CLIENTS, 3)
        shared.set_counter(shard, Counter.COMMANDS_TOTAL, 100)
        shared.set_counter(shard, Counter.MEMORY_BYTES, 4096)
    for group in (1, 3):
        shared.set_group(group, GroupWord.KEYS, 5)
        shared.set_group(group, GroupWord.EXPIRES, 2)
        shared.set_group(group, GroupWord.STATE, GroupState.SERVING)
        shared.set_route(group, 1, 4)
    info = bench.front.server_info()
    assert info["Clients"]["connected_clients"] == 6
    assert info["Stats"]["total_commands_processed"] == 200
    assert info["Memory"]["used_memory"] == 8192
    assert info["Keyspace"] == {"db0": "keys=10,expires=4,avg_ttl=0"}
    raft = info["Raft"]
    assert (raft["groups"], raft["groups_serving"], raft["groups_led"]) == (4, 2, 2)


def test_an_empty_keyspace_is_not_listed(bench: Bench) -> None:
    assert bench.front.server_info()["Keyspace"] == {}


def test_statistics_begin_at_zero_again_after_a_reset(bench: Bench) -> None:
    bench.shared.set_counter(0, Counter.COMMANDS_TOTAL, 100)
    bench.front.reset_statistics()
    bench.shared.add(0, Counter.COMMANDS_TOTAL, 7)
    assert bench.front.server_info()["Stats"]["total_commands_processed"] == 7


def test_statistics_are_never_negative_when_a_shard_was_restarted(bench: Bench) -> None:
    """A restarted shard counts from zero, below the baseline of an earlier reset."""
    bench.shared.set_counter(0, Counter.COMMANDS_TOTAL, 100)
    bench.front.reset_statistics()
    bench.shared.clear_shard(0)
    assert bench.front.server_info()["Stats"]["total_commands_processed"] == 0


def test_configuration_names_what_clients_may_know(bench: Bench) -> None:
    shown = bench.front.configuration()
    assert shown["port"] == str(bench.config.client.port)
    assert shown["rafter-groups"] == "4"
    assert all(isinstance(value, str) for value in shown.values())


def test_commands_and_status_go_to_router_and_gatherer(bench: Bench) -> None:
    front = bench.front
    slot = ReplySlot(RespConnection(front), 2, 0)
    group = front.group_by_slot[slot_of(b"key")]
    front.submit(group, [b"GET", b"key"], False, slot, 0)
    assert not bench.router.is_idle
    front.request_status(slot, 1)
    assert isinstance(slot.replies[1], dict)
    assert slot.waiting == 1
