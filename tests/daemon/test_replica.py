"""A replica between its node and its service: who hears what, in which order, exactly once."""

from __future__ import annotations

import random

import pytest

from rafter_core import (
    Change,
    ChangeKind,
    ConfChange,
    Config,
    Entry,
    EntryKind,
    HardState,
    Membership,
    MemoryStorage,
    MessageKind,
    RawNode,
    Snapshot,
)
from rafter_core.conf_change import encode
from rafter_core.messages import Message
from rafterd.replica import NOWHERE, Place, Replica
from rafterd.shared import GroupState, GroupWord, SharedState
from tests.daemon.engine_bench import Journal, Listener, Waiter, entry

MEMBERS = (1, 2, 3)
APPEND = MessageKind.APPEND
APPEND_RESPONSE = MessageKind.APPEND_RESPONSE
HEARTBEAT = MessageKind.HEARTBEAT
HEARTBEAT_RESPONSE = MessageKind.HEARTBEAT_RESPONSE
VOTE_RESPONSE = MessageKind.VOTE_RESPONSE


class ReplicaBench:
    """One replica on node 1, its log in memory; the test plays engine and peers."""

    def __init__(self, *, uncommitted_bytes_max: int = 1 << 20, batch_bytes_max: int = 1 << 20):
        self.storage = MemoryStorage(Membership(MEMBERS))
        self.heard: list[str] = []
        self.routes: list[tuple[int, int, int]] = []
        self.words = SharedState(1, 1).group_words(1)
        self.machine = Journal()
        config = Config(
            node_id=1,
            pre_vote=False,
            uncommitted_bytes_max=uncommitted_bytes_max,
            committed_bytes_per_ready_max=batch_bytes_max,
        )
        node = RawNode(config, self.storage, random.Random(1))
        self.replica = Replica(
            1, node, self.machine, HardState(), self.words,
            lambda *route: self.routes.append(route),
        )  # fmt: skip
        self.replica.listener = self.listener = Listener(self.heard)

    def pump(self) -> list[Message]:
        """Do the engine's duties until there is no more work."""
        replica = self.replica
        messages: list[Message] = []
        replica.advance()
        while replica.node.has_ready():
            messages += self.turn()
            replica.advance()
        return messages

    def turn(self) -> list[Message]:
        """Take one Ready, and do what the engine does with it."""
        ready = self.replica.take_ready()
        self.storage.store(ready)
        self.replica.node.storage_done(ready)
        self.replica.publish()
        return ready.messages + ready.messages_after_sync

    def hear(self, sender: int, kind: MessageKind, **fields: object) -> list[Message]:
        fields.setdefault("term", self.replica.node.term)
        message = Message(kind=kind, to=1, sender=sender, **fields)  # type: ignore[arg-type]  # given
        self.replica.node.step(message)
        return self.pump()

    def lead(self) -> None:
        self.replica.node.campaign()
        self.pump()
        self.hear(2, VOTE_RESPONSE)
        self.commit()
        self.heard.clear()
        self.routes.clear()

    def commit(self) -> None:
        """Let a follower acknowledge everything."""
        self.hear(2, APPEND_RESPONSE, index=self.replica.node.last_index)

    def propose(self, *names: str) -> None:
        for name in names:
            assert self.replica.propose(name.encode(), Waiter(self.heard, name))


@pytest.fixture
def bench() -> ReplicaBench:
    return ReplicaBench()


def test_proposals_are_answered_in_order_with_their_own_results(bench: ReplicaBench) -> None:
    bench.lead()
    bench.propose("a", "b")
    bench.pump()
    assert bench.heard == []
    assert bench.replica.proposals_count == 2
    bench.commit()
    assert bench.heard == ["a before", "a applied 2", "b before", "b applied 3"]
    assert bench.replica.proposals_count == 0


def test_the_state_machine_gets_the_context_of_local_proposals_alone(bench: ReplicaBench) -> None:
    bench.hear(2, APPEND, term=1, entries=[entry(1, 1, b"foreign")], commit=1)
    bench.lead()
    bench.propose("own")
    bench.commit()
    assert [(u.payload, u.context) for u in bench.machine.updates] == [
        (b"foreign", None),
        (b"own", "own"),
    ]


def test_entries_of_others_are_applied_in_one_call(bench: ReplicaBench) -> None:
    entries = [entry(1, index, b"x") for index in range(1, 6)]
    bench.hear(2, APPEND, term=1, entries=entries, commit=5)
    assert (bench.machine.calls, len(bench.machine.updates)) == (1, 5)


def test_a_no_op_does_not_reach_the_state_machine(bench: ReplicaBench) -> None:
    bench.lead()
    assert bench.replica.node.applied == 1
    assert bench.machine.updates == []


def test_proposals_are_lost_when_leadership_is(bench: ReplicaBench) -> None:
    bench.lead()
    bench.propose("a", "b")
    bench.pump()
    bench.hear(3, HEARTBEAT, term=2)
    assert bench.heard == ["a lost", "b lost", "leadership lost"]
    assert bench.replica.proposals_count == 0


def test_an_entry_that_commits_after_it_was_lost_is_applied_without_its_proposer(
    bench: ReplicaBench,
) -> None:
    bench.lead()
    bench.propose("a")
    bench.pump()
    bench.hear(3, APPEND, term=2, index=2, log_term=1, entries=[entry(2, 3)], commit=3)
    assert bench.heard == ["a lost", "leadership lost"]
    assert [(u.index, u.payload, u.context) for u in bench.machine.updates] == [(2, b"a", None)]


def test_an_entry_of_another_term_at_the_index_of_a_proposal_is_not_its_result(
    bench: ReplicaBench,
) -> None:
    bench.lead()
    bench.propose("mine")
    bench.pump()
    node = bench.replica.node
    # Both in one turn of the loop: the replica first looks when the other entry is committed.
    foreign = [entry(2, 2, b"theirs")]
    node.step(
        Message(kind=APPEND, to=1, sender=3, term=2, index=1, log_term=1, entries=foreign, commit=2)
    )
    bench.pump()
    assert bench.heard == ["mine lost", "leadership lost"]
    assert [(u.payload, u.context) for u in bench.machine.updates] == [(b"theirs", None)]


def test_a_proposal_overtaken_at_its_index_is_lost_even_without_a_look_in_between(
    bench: ReplicaBench,
) -> None:
    """`advance` is the rule; the apply loop does not rely on it."""
    bench.lead()
    bench.propose("mine")
    bench.pump()
    bench.replica._apply([entry(9, 2, b"theirs")])
    assert bench.heard == ["mine lost"]
    assert [(u.payload, u.context) for u in bench.machine.updates] == [(b"theirs", None)]


def test_the_loss_is_told_when_the_leader_leads_again_in_a_later_term(bench: ReplicaBench) -> None:
    bench.lead()
    bench.propose("old")
    bench.hear(3, HEARTBEAT, term=2)
    bench.replica.node.campaign()
    bench.pump()
    bench.hear(2, VOTE_RESPONSE)
    bench.propose("new")
    bench.commit()
    assert bench.heard == ["old lost", "leadership lost", "new before", "new applied 4"]


def test_a_leader_that_steps_down_by_itself_has_work_to_hand_out_and_says_that_it_lost(
    bench: ReplicaBench,
) -> None:
    bench.lead()
    for _ in range(2 * 10):
        bench.replica.node.tick()
    assert not bench.replica.is_leader
    assert bench.replica.node.has_ready(), "or the engine would not look at it"
    bench.replica.advance()
    assert bench.heard == ["leadership lost"]
    bench.replica.advance()
    assert bench.heard == ["leadership lost"]


def test_a_proposal_that_the_core_drops_hears_nothing() -> None:
    bench = ReplicaBench(uncommitted_bytes_max=100)
    waiter = Waiter(bench.heard, "a")
    assert not bench.replica.propose(b"a", waiter)
    bench.lead()
    bench.propose("x" * 200)
    assert not bench.replica.propose(b"y" * 200, waiter)
    assert bench.replica.proposals_count == 1
    bench.commit()
    assert len(bench.heard) == 2
    bench.propose("z")


def test_the_service_may_propose_whenever_it_is_asked(bench: ReplicaBench) -> None:
    bench.lead()
    bench.listener.on_advance = lambda: bench.propose("a")
    bench.pump()
    bench.commit()
    assert bench.heard == ["a before", "a applied 2"]


def test_a_read_is_confirmed_by_a_quorum(bench: ReplicaBench) -> None:
    bench.lead()
    bench.replica.node.read_index(b"r1")
    (heartbeat, _) = bench.pump()
    assert bench.heard == []
    bench.hear(2, HEARTBEAT_RESPONSE, context=heartbeat.context)
    assert bench.heard == ["read r1"]


def read_ahead_of_applying() -> ReplicaBench:
    """Return a leader whose read is confirmed while the last entry below it is not applied yet."""
    # One entry fills a Ready, so each takes a Ready of its own.
    bench = ReplicaBench(batch_bytes_max=1)
    bench.lead()
    replica, node = bench.replica, bench.replica.node
    bench.propose("a", "b", "c")
    bench.pump()
    node.step(Message(kind=APPEND_RESPONSE, to=1, sender=2, term=1, index=4))
    node.read_index(b"r")
    messages = bench.turn()
    context = next(m.context for m in messages if m.kind is HEARTBEAT and m.context)
    node.step(Message(kind=HEARTBEAT_RESPONSE, to=1, sender=2, term=1, context=context))
    bench.turn()
    assert (node.commit, replica.node.applied) == (4, 3)
    assert "read r" not in bench.heard
    return bench


def test_a_read_is_confirmed_only_once_its_index_is_applied() -> None:
    bench = read_ahead_of_applying()
    bench.pump()
    assert bench.heard == [
        "a before", "a applied 2", "b before", "b applied 3", "c before", "c applied 4", "read r",
    ]  # fmt: skip


def test_a_confirmed_read_that_waits_to_be_applied_is_dropped_with_leadership() -> None:
    bench = read_ahead_of_applying()
    bench.hear(3, HEARTBEAT, term=2)
    assert bench.heard[4:] == ["c lost", "leadership lost"]
    assert bench.replica.node.applied == 4


def test_reads_that_wait_are_dropped_with_leadership(bench: ReplicaBench) -> None:
    bench.lead()
    bench.replica.node.read_index(b"r1")
    (heartbeat, _) = bench.pump()
    bench.hear(3, HEARTBEAT, term=2)
    bench.hear(2, HEARTBEAT_RESPONSE, term=1, context=heartbeat.context)
    assert bench.heard == ["leadership lost"]


def test_the_words_of_the_group_follow_each_ready(bench: ReplicaBench) -> None:
    bench.lead()
    bench.propose("a")
    bench.pump()
    words = bench.words
    published = (GroupWord.TERM, GroupWord.COMMIT, GroupWord.APPLIED, GroupWord.LAST_INDEX)
    assert [words[word] for word in published] == [1, 1, 1, 2]
    bench.commit()
    assert [words[word] for word in published] == [1, 2, 2, 2]
    assert words[GroupWord.STATE] == GroupState.SERVING
    assert words[GroupWord.KEYS] == 0


def test_a_route_is_told_once_for_each_change(bench: ReplicaBench) -> None:
    bench.hear(2, HEARTBEAT, term=1)
    bench.hear(2, HEARTBEAT, term=1)
    bench.replica.publish()
    assert bench.routes == [(1, 2, 1)]
    bench.hear(3, HEARTBEAT, term=2)
    bench.replica.node.campaign()
    bench.pump()
    bench.hear(2, VOTE_RESPONSE)
    assert bench.routes == [(1, 2, 1), (1, 3, 2), (1, 0, 3), (1, 1, 3)]


def test_the_hard_state_is_that_of_the_newest_ready(bench: ReplicaBench) -> None:
    entries: list[Entry] = [entry(3, 1)]
    bench.hear(2, APPEND, term=3, entries=entries)
    assert bench.replica.hard_state == HardState(3, 0, 0)
    bench.hear(2, HEARTBEAT, commit=1)
    assert bench.replica.hard_state == HardState(3, 0, 1)


# ---- snapshots -------------------------------------------------------------------------------


def test_a_replica_knows_where_its_machine_is_in_the_log(bench: ReplicaBench) -> None:
    assert bench.replica.applied == NOWHERE
    change = encode(ConfChange((Change(ChangeKind.ADD_VOTER, 4),)))
    entries = [entry(1, 1, b"xyz"), Entry(1, 2, EntryKind.CONFIG_CHANGE_V2, change)]
    bench.hear(2, APPEND, term=1, entries=entries, commit=2)
    assert bench.replica.applied == Place(2, 1, 2)
    assert bench.replica.members == (1, 2, 3, 4)
    bench.hear(3, APPEND, term=2, index=2, log_term=1, entries=[entry(2, 3)], commit=3)
    assert bench.replica.applied == Place(3, 2, 2)


def test_the_log_is_weighed_since_the_last_snapshot(bench: ReplicaBench) -> None:
    bench.hear(2, APPEND, term=1, entries=[entry(1, 1, b"xyz")], commit=1)
    covered = bench.replica.logged_bytes
    assert covered == 3
    bench.hear(2, APPEND, term=1, index=1, log_term=1, entries=[entry(1, 2, b"zz")], commit=2)
    bench.replica.snapshot_taken(1, covered)
    assert (bench.replica.snapshot_index, bench.replica.logged_bytes) == (1, 2)


def test_a_replica_goes_on_from_an_installed_snapshot(bench: ReplicaBench) -> None:
    bench.hear(2, APPEND, term=1, entries=[entry(1, 1, b"xyz")], commit=1)
    snapshot = Snapshot(9, 1, Membership((1, 2, 5)))
    bench.replica.node.step(
        Message(kind=MessageKind.SNAPSHOT, to=1, sender=2, term=1, snapshot=snapshot)
    )
    ready = bench.replica.take_ready()
    assert bench.replica.is_installing
    bench.storage.store(ready)
    bench.replica.snapshot_installed(Place(9, 1, 7))
    bench.replica.node.storage_done(ready)
    assert not bench.replica.is_installing
    assert bench.replica.applied == Place(9, 1, 7)
    assert (bench.replica.snapshot_index, bench.replica.logged_bytes) == (9, 0)
    assert bench.replica.members == (1, 2, 5)


def test_what_a_snapshot_holds_is_committed_though_the_log_does_not_say_so() -> None:
    node = RawNode(Config(node_id=1), MemoryStorage(Membership(MEMBERS)), random.Random(1))
    words = SharedState(1, 1).group_words(1)
    replica = Replica(
        1, node, Journal(), HardState(3, 2, 4), words, lambda *_: None, Place(7, 2, 5)
    )
    assert replica.hard_state == HardState(3, 2, 7)
    assert replica.snapshot_index == 7


# ---- the configuration -----------------------------------------------------------------------


def test_changes_of_the_configuration_are_applied_and_their_contexts_remembered() -> None:
    bench = ReplicaBench()
    changes = [
        ConfChange((Change(ChangeKind.REMOVE_NODE, 3),), context=b"why"),
        ConfChange((Change(ChangeKind.ADD_LEARNER, 3),)),
    ]
    entries = [
        Entry(1, index, change.entry_kind, encode(change))
        for index, change in enumerate(changes, 1)
    ]
    bench.replica.node.step(Message(kind=APPEND, to=1, sender=2, term=1, entries=entries, commit=2))
    bench.pump()
    assert (bench.replica.voters, bench.replica.members) == ((1, 2), (1, 2, 3))
    assert list(bench.replica.changes) == [b"why"]
    assert bench.replica.applied == (2, 1, 2)
    assert bench.machine.updates == []
