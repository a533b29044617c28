"""The system group's service: what it proposes, what it publishes, and what it starts from."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from rafter_core import Config as CoreConfig
from rafter_core import Entry, EntryKind, HardState, Membership, MemoryStorage, RawNode
from rafter_storage.segment_manager import GroupWrite, SegmentManager
from rafter_transport import Hello, NodeInfo
from rafterd.cluster_map import (
    Announce,
    MapState,
    NodeRecord,
    Phase,
    Progress,
    Replace,
    foundation,
    pack_command,
)
from rafterd.cluster_map_machine import ClusterMapMachine
from rafterd.config import Config, load_config
from rafterd.map_distribution import MapDistribution
from rafterd.replica import Replica
from rafterd.shared import SharedState
from rafterd.system_group import SystemGroup, everything_logged
from tests.transport.support import make_hello


def make_config(nodes: int = 2) -> Config:
    initial = ",".join(f"{n}@10.0.0.{n}:17379" for n in range(1, nodes + 1))
    overrides = {
        "cluster.initial": initial, "cluster.groups": "2", "peer.listen": "10.0.0.1:17379",
        "peer.insecure": "true",
    }  # fmt: skip
    return load_config(overrides=overrides).config


CONFIG = make_config()
FOUND = pack_command(foundation(CONFIG))


def hello_of(node: int, **changes: Any) -> Hello:
    address: dict[str, Any] = {"version_max": 3, "peer_host": f"10.0.0.{node}", "peer_port": 17379}
    return make_hello(node, **address | changes)


def record_of_node(node: int, **changes: Any) -> NodeRecord:
    fields: dict[str, Any] = {
        "node": node, "incarnation": 100 + node, "host": f"10.0.0.{node}", "base_port": 17379,
        "shards": 1, "client_host": "127.0.0.1", "client_port": 7379,
    }  # fmt: skip
    return NodeRecord(**fields | changes)


class World:
    """What the service sees of the exchanger: who is connected, and what came of the map."""

    def __init__(self) -> None:
        self.hellos = {1: hello_of(1)}
        self.taken: list[list[NodeInfo]] = []

    def present_hellos(self) -> dict[int, Hello]:
        return self.hellos

    def post(self, *_: object) -> bool:
        raise AssertionError("there is no sister")

    def version_of(self, node: int) -> int:
        raise AssertionError("there is no link")

    def take_map(self, nodes: list[NodeInfo]) -> None:
        self.taken.append(nodes)


class Bench:
    """The service on node 1, the only voter, over a log in memory."""

    def __init__(self, entries: list[bytes] | None = None, commit: int = 0) -> None:
        self.storage = MemoryStorage(Membership((1,)))
        self.storage.append(
            [Entry(1, i, EntryKind.NORMAL, p) for i, p in enumerate(entries or [], 1)]
        )
        hard_state = HardState(1 if entries else 0, 0, commit)
        self.storage.set_hard_state(hard_state)
        self.world = World()
        self.is_disk_full = False
        self.machine = ClusterMapMachine()
        node = RawNode(CoreConfig(node_id=1), self.storage, random.Random(1))
        self.replica = Replica(
            0, node, self.machine, hard_state, SharedState(1, 1).group_words(0), lambda *_: None
        )
        self.system = SystemGroup(
            config=CONFIG,
            replica=self.replica,
            machine=self.machine,
            log=self.storage,  # type: ignore[arg-type]  # as far as it is used
            present=self.world,
            distribution=MapDistribution(1, 0, self.world, lambda: None),
            mark=lambda _: None,
            is_disk_full=lambda: self.is_disk_full,
        )
        self.replica.listener = self.system

    def pump(self) -> None:
        replica = self.replica
        replica.advance()
        while replica.node.has_ready():
            ready = replica.take_ready()
            self.storage.store(ready)
            replica.node.storage_done(ready)

    def lead(self) -> None:
        self.pump()
        self.replica.node.campaign()
        self.pump()
        assert self.replica.is_leader

    def settle(self) -> None:
        """Tick until nothing is proposed any more."""
        last_index = -1
        while self.replica.node.last_index != last_index:
            last_index = self.replica.node.last_index
            self.system.tick()
            self.pump()
        self.system.tick()


def test_the_leader_founds_the_map_and_enters_who_is_there() -> None:
    bench = Bench()
    bench.lead()
    bench.settle()
    assert dict(bench.machine.state.nodes) == {
        1: record_of_node(1),
        2: NodeRecord(2, 0, "10.0.0.2", 17379),
    }
    assert set(bench.machine.state.groups) == {1, 2}
    bench.world.hellos[2] = hello_of(2)
    bench.settle()
    assert bench.machine.state.nodes[2] == record_of_node(2)
    assert bench.world.taken[-1] == [record_of_node(node).info() for node in (1, 2)]


def test_a_node_that_moved_is_entered_anew() -> None:
    bench = Bench()
    bench.lead()
    bench.world.hellos[2] = hello_of(2)
    bench.settle()
    bench.world.hellos[2] = hello_of(2, peer_host="10.9.9.9", shards=4)
    bench.settle()
    assert bench.machine.state.nodes[2] == record_of_node(2, host="10.9.9.9", shards=4)


def test_nothing_is_proposed_while_something_is_unapplied_or_where_nobody_leads() -> None:
    bench = Bench()
    for _ in range(3):
        bench.system.tick()
    assert bench.replica.node.last_index == 0
    bench.lead()
    first = bench.replica.node.last_index
    for _ in range(3):
        bench.system.tick()
    assert bench.replica.node.last_index == first + 1
    bench.pump()
    bench.is_disk_full = True
    bench.system.tick()
    assert bench.replica.node.last_index == first + 1


def test_who_is_not_in_the_map_or_has_another_incarnation_is_passed_over() -> None:
    bench = Bench()
    bench.lead()
    bench.world.hellos[2] = hello_of(2)
    bench.settle()
    version = bench.machine.state.version
    bench.world.hellos |= {2: hello_of(2, incarnation=7), 3: hello_of(3)}
    bench.settle()
    assert bench.machine.state.version == version


def test_a_refused_command_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    bench.lead()
    bench.system._propose(foundation(CONFIG))
    # As if another leader had entered it meanwhile.
    bench.system._propose(foundation(CONFIG))
    bench.pump()
    assert any("refused Found" in text for text in caplog.messages)


# ---- replacements ----------------------------------------------------------------------------


def with_two_nodes() -> Bench:
    bench = Bench()
    bench.lead()
    bench.world.hellos[2] = hello_of(2)
    bench.settle()
    return bench


def test_a_node_that_is_up_is_not_given_up() -> None:
    bench = with_two_nodes()
    answers: list[str | None] = []
    assert bench.system.replace(2, 102, answers.append) == (
        "node 2 is up: stop it for good before it is replaced"
    )
    del bench.world.hellos[2]
    assert bench.system.replace(2, 102, answers.append) is None
    bench.pump()
    assert answers == [None]
    assert bench.machine.state.replacements[2].phase is Phase.LEAVING
    assert bench.system.replace(2, 9, answers.append) is None
    bench.pump()
    assert answers[1] == "node 2 does not have incarnation 0000000000000009 any more"


def test_a_replica_that_does_not_lead_answers_nothing_and_enters_nothing() -> None:
    bench = Bench([FOUND], 1)
    bench.pump()
    answers: list[str | None] = []
    assert bench.system.replace(2, 102, answers.append) is None
    bench.system.report(Progress(2, 102, Phase.LEAVING, [0]))
    bench.pump()
    assert answers == []
    assert bench.replica.node.last_index == 1


def test_reports_are_entered_once() -> None:
    bench = with_two_nodes()
    del bench.world.hellos[2]
    bench.system.replace(2, 102, lambda _: None)
    bench.pump()
    for groups, pending in (([1], [0, 2]), ([1], [0, 2]), ([9], [0, 2]), ([0, 2], [0, 1, 2])):
        before = bench.replica.node.last_index
        is_news = bench.machine.state.replacements[2].pending != pending
        bench.system.report(Progress(2, 102, Phase.LEAVING, groups))
        bench.pump()
        assert bench.replica.node.last_index == before + is_news
        assert bench.machine.state.replacements[2].pending == pending
    bench.settle()
    assert bench.world.taken[-1][1].incarnation is None, "now another one may come"


# ---- the start -------------------------------------------------------------------------------


ANNOUNCED = [FOUND, pack_command(Announce(record_of_node(2)))]


@pytest.mark.parametrize("commit", [0, 1, 2])
def test_all_that_is_logged_counts_from_the_start(commit: int) -> None:
    """A wiped node was let in by one whose log had its incarnation, committed but not known so."""
    bench = Bench(ANNOUNCED, commit)
    assert bench.machine.state.version == 0, "nothing is applied yet"
    assert bench.world.taken == [[NodeRecord(1, 0, "10.0.0.1", 17379).info(),
                                  record_of_node(2).info()]]  # fmt: skip
    bench.pump()
    bench.system.tick()
    assert len(bench.world.taken) == 1, "what is replayed is older, or the same"


def test_what_was_logged_and_never_committed_is_given_up_for_the_map_that_is() -> None:
    bench = Bench(ANNOUNCED, 1)
    bench.pump()
    # Another leader had something else in its place.
    other = Announce(record_of_node(2, incarnation=7))
    bench.machine.state = MapState(
        2, {**bench.machine.state.nodes, 2: other.record}, bench.machine.state.groups
    )
    bench.system.tick()
    assert bench.world.taken[-1][1] == other.record.info()


def test_a_door_that_may_have_been_opened_stays_shut_until_that_is_known() -> None:
    gone = [
        pack_command(Replace(2, 102)),
        pack_command(Progress(2, 102, Phase.LEAVING, [0, 1, 2])),
        pack_command(Announce(record_of_node(2, incarnation=7))),
    ]
    for commit, incarnation in ((1, 102), (2, 102), (3, 102), (4, 7), (5, 7)):
        taken = Bench([*ANNOUNCED, *gone], commit).world.taken
        assert taken[0][1].incarnation == incarnation, commit


def test_a_log_that_is_damaged_tells_what_can_be_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = SegmentManager(tmp_path, segment_bytes=1 << 20, tail_bytes_max=1)
    store.create()
    store.open()
    log = store.group_log(0, Membership((1,)))
    for index, payload in enumerate([*ANNOUNCED, pack_command(Announce(record_of_node(1)))], 1):
        job = store.begin([GroupWrite(0, None, [Entry(1, index, EntryKind.NORMAL, payload)])])
        job.run()
        store.complete(job)
    for commit in range(4):
        assert everything_logged(MapState(), log, 0, commit).version == 3
    assert everything_logged(everything_logged(MapState(), log, 0, 0), log, 3, 3).version == 3
    (segment,) = tmp_path.glob("wal/*1.log")
    content = bytearray(segment.read_bytes())
    content[content.index(ANNOUNCED[1])] ^= 1
    segment.write_bytes(content)
    assert everything_logged(MapState(), log, 0, 0).version == 1
    assert any("the log is damaged" in text for text in caplog.messages)
    store.close()
