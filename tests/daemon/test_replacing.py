"""Replacing a node in one group of three: real replicas, their logs in memory, the test as map."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable

import pytest

from rafter_core import Config, HardState, Membership, MemoryStorage, Message, RawNode, StepError
from rafter_core.progress import ProgressMode
from rafterd.cluster_map import NodeRecord, Phase, Progress, Replacement
from rafterd.map_messages import Publication
from rafterd.replacing import LAG_ENTRIES_MAX, Replacing
from rafterd.replica import Replica
from rafterd.shared import SharedState
from tests.daemon.engine_bench import Journal, Waiter

FOUNDING = Membership((1, 2, 3))
OLD, NEW = 102, 7
LEAVING = Replacement(2, OLD, Phase.LEAVING, [1])
JOINING = Replacement(2, OLD, Phase.JOINING, [1], 1)


class Member:
    """One node's replica, and what it does about replacements."""

    def __init__(self, node: int) -> None:
        self.storage = MemoryStorage(FOUNDING)
        raw = RawNode(Config(node_id=node), self.storage, random.Random(node))
        self.replica = Replica(
            1, raw, Journal(), HardState(), SharedState(1, 1).group_words(1), lambda *_: None
        )
        self.reports: list[Progress] = []
        self.snapshot_membership: Membership | None = None
        self.snapshots_asked = 0
        self.founding = FOUNDING
        self.replacing = Replacing(
            replicas=self, snapshots=self, founding=lambda _: self.founding,
            report=self.reports.append,
        )  # fmt: skip

    def for_each(self, action: Callable[[Replica], None]) -> None:
        action(self.replica)

    def newest_membership(self, group: int) -> Membership | None:
        return self.snapshot_membership

    def ask(self, group: int) -> None:
        self.snapshots_asked += 1

    def look(self, *replacements: Replacement, incarnation: int = NEW) -> list[Progress]:
        """Look once; return what was reported."""
        self.reports.clear()
        record = NodeRecord(2, incarnation, "b", 5)
        self.replacing.look(Publication(1, [record], list(replacements)))
        return list(self.reports)

    def work(self) -> list[Message]:
        """Do the engine's duties for one Ready."""
        ready = self.replica.take_ready()
        self.storage.store(ready)
        self.replica.node.storage_done(ready)
        return ready.messages + ready.messages_after_sync


def members(member: Member) -> tuple[int, ...]:
    """Return the nodes of the configuration in force at a member."""
    return member.replica.members


def voters(member: Member) -> tuple[int, ...]:
    """Return those of them that vote."""
    return member.replica.voters


class Trio:
    """The group. Nodes in `down` get and send nothing."""

    def __init__(self) -> None:
        self.members = {node: Member(node) for node in (1, 2, 3)}
        self.down: set[int] = set()

    def __getitem__(self, node: int) -> Member:
        return self.members[node]

    def pump(self) -> None:
        """Deliver messages until there are none."""
        is_busy = True
        while is_busy:
            is_busy = False
            for node, member in self.members.items():
                if node in self.down or not member.replica.node.has_ready():
                    continue
                is_busy = True
                for message in member.work():
                    if message.to not in self.down:
                        # As the engine does with answers of one who is no member.
                        with contextlib.suppress(StepError):
                            self.members[message.to].replica.node.step(message)

    def tick(self, count: int = 1) -> None:
        for _ in range(count):
            for node, member in self.members.items():
                if node not in self.down:
                    member.replica.node.tick()
            self.pump()

    def elect(self, node: int) -> Member:
        self.members[node].replica.node.campaign()
        self.pump()
        assert self.members[node].replica.is_leader
        return self.members[node]

    def write(self, node: int, count: int = 1) -> None:
        for number in range(count):
            assert self.members[node].replica.propose(b"%d" % number, Waiter([], "w"))
        self.pump()

    def empty(self) -> None:
        """Node 2 loses its disk, and starts again."""
        self.members[2] = Member(2)

    def without_node_2(self) -> Member:
        """Lose node 2 and take it out; return the leader, node 1."""
        leader = self.elect(1)
        self.write(1, 3)
        self.down.add(2)
        leader.look(LEAVING)
        self.pump()
        assert members(leader) == (1, 3)
        return leader


def test_a_lost_node_leaves_and_one_without_memory_takes_its_place() -> None:
    trio = Trio()
    leader = trio.elect(1)
    trio.write(1, 3)
    trio.down.add(2)
    assert leader.look(LEAVING) == []
    assert leader.look(LEAVING) == [], "nothing is done before it is committed"
    assert members(leader) == (1, 2, 3)
    trio.pump()
    assert members(leader) == (1, 3)
    assert leader.look(LEAVING) == [Progress(2, OLD, Phase.LEAVING, [1])]
    assert leader.look(JOINING, incarnation=0) == [], "nobody has come yet"
    trio.pump()
    assert members(leader) == (1, 3)
    trio.empty()
    trio.down.clear()
    assert leader.look(JOINING) == []
    trio.pump()
    assert leader.replica.node.membership == Membership((1, 3), learners=(2,))
    trio.tick(3)
    assert leader.look(JOINING) == []
    trio.pump()
    assert leader.replica.node.membership == FOUNDING
    assert leader.look(JOINING) == [Progress(2, OLD, Phase.JOINING, [1])]
    trio.tick(3)
    assert trio[2].replica.node.membership == FOUNDING
    updates = trio[2].replica.machine
    assert isinstance(updates, Journal)
    assert len(updates.updates) == 3
    # It counts again.
    trio.down.add(1)
    trio.tick(30)
    assert trio[2].replica.is_leader or trio[3].replica.is_leader


def test_nobody_but_a_leader_does_anything() -> None:
    trio = Trio()
    trio.elect(1)
    last_index = trio[3].replica.node.last_index
    assert trio[3].look(LEAVING) == []
    assert trio[3].replica.node.last_index == last_index


def test_groups_in_which_a_phase_is_over_are_left_alone() -> None:
    trio = Trio()
    leader = trio.without_node_2()
    assert leader.look(Replacement(2, OLD, Phase.LEAVING, [4])) == []
    assert leader.look() == []


@pytest.mark.parametrize("replacement", [LEAVING, JOINING])
def test_a_configuration_of_before_proves_nothing(replacement: Replacement) -> None:
    """A leader that is none any more may not have heard that the node left, or came back."""
    trio = Trio()
    leader = trio.elect(1)
    trio.down |= {2, 3}
    for _ in range(3):
        assert leader.look(replacement) == []
        trio.pump()
    assert members(leader) == (1, 2, 3)
    # In the other place, where the node is not a member: also of another replacement.
    trio.down = {2}
    trio.tick(3)
    other = Replacement(2, OLD + 1, replacement.phase, [1])
    assert members(leader) == (1, 3)
    assert leader.look(other) == []


def test_the_next_leader_goes_on_with_what_it_has_seen_applied() -> None:
    trio = Trio()
    trio.without_node_2().replica.node.transfer_leadership(3)
    trio.pump()
    leader = trio[3]
    assert leader.replica.is_leader
    assert leader.look(LEAVING) == [Progress(2, OLD, Phase.LEAVING, [1])]


def test_who_was_taken_out_again_meanwhile_is_not_brought_back() -> None:
    trio = Trio()
    leader = trio.without_node_2()
    trio.empty()
    trio.down.clear()
    leader.look(JOINING)
    trio.pump()
    leader.look(Replacement(2, NEW, Phase.LEAVING, [1]))
    trio.pump()
    assert members(leader) == (1, 3)
    last_index = leader.replica.node.last_index
    assert leader.look(JOINING) == [], "this is of an older map"
    assert leader.replica.node.last_index == last_index


def test_a_member_of_before_is_taken_out_before_its_successor_comes_in() -> None:
    """What the leader knew of the log of the one before it took for that of the new one."""
    trio = Trio()
    leader = trio.elect(1)
    trio.write(1, 5)
    match = leader.replica.node.status().progress[2].match
    trio.empty()
    assert match
    leader.look(JOINING)
    trio.pump()
    assert members(leader) == (1, 3)
    trio.down.add(2)
    leader.look(JOINING)
    trio.pump()
    assert leader.replica.node.status().progress[2].match == 0


def test_a_learner_that_lags_is_no_voter_yet() -> None:
    trio = Trio()
    leader = trio.without_node_2()
    trio.empty()
    leader.look(JOINING)
    trio.pump()
    for _ in range(3):
        assert leader.look(JOINING) == []
        trio.tick()
    assert voters(leader) == (1, 3)
    trio.down.clear()
    trio.tick(3)
    trio.down.add(2)
    trio.write(1, LAG_ENTRIES_MAX + 1)
    leader.look(JOINING)
    trio.pump()
    assert voters(leader) == (1, 3)
    trio.down.clear()
    leader.replica.node.report_unreachable(2)
    trio.tick(3)
    leader.look(JOINING)
    trio.pump()
    assert voters(leader) == (1, 2, 3)


def test_who_was_a_learner_stays_one() -> None:
    trio = Trio()
    leader = trio.without_node_2()
    leader.founding = Membership((1, 3), learners=(2,))
    trio.empty()
    trio.down.clear()
    leader.look(JOINING)
    trio.pump()
    assert leader.look(JOINING) == [Progress(2, OLD, Phase.JOINING, [1])]
    assert voters(leader) == (1, 3)


def test_a_snapshot_without_the_learner_is_followed_by_one_with_it() -> None:
    """It would take none that was taken while it was no member, and got no other."""
    trio = Trio()
    leader = trio.without_node_2()
    applied = leader.replica.node.applied
    leader.storage.create_snapshot(applied, leader.replica.node.membership)
    leader.storage.compact(applied)
    leader.snapshot_membership = leader.replica.node.membership
    trio.empty()
    trio.down.clear()
    leader.look(JOINING)
    trio.pump()
    assert leader.replica.node.status().progress[2].mode is ProgressMode.SNAPSHOT
    assert leader.look(JOINING) == []
    assert leader.snapshots_asked == 1
    leader.snapshot_membership = leader.replica.node.membership
    assert leader.look(JOINING) == []
    assert leader.snapshots_asked == 1


def test_a_change_that_cannot_be_proposed_now_is_tried_again() -> None:
    trio = Trio()
    leader = trio.elect(1)
    trio.down.add(2)
    leader.replica.node.transfer_leadership(3)
    assert leader.look(LEAVING) == []
    assert leader.replica.node.last_index == 1
    trio.pump()
    new_leader = trio[3]
    assert new_leader.replica.is_leader
    new_leader.look(LEAVING)
    trio.pump()
    assert new_leader.look(LEAVING) == [Progress(2, OLD, Phase.LEAVING, [1])]
