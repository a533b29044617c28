"""The leader's side: what it counts, what it commits, and what it sends because of an answer."""

from __future__ import annotations

import pytest

from rafter_core import (
    Change,
    ChangeKind,
    ConfChange,
    HardState,
    Membership,
    Message,
    MessageKind,
    ProgressMode,
    StepError,
)
from tests.core.support import THREE, Driven, both_modes, of_kind

APPEND = MessageKind.APPEND
APPEND_RESPONSE = MessageKind.APPEND_RESPONSE
HEARTBEAT = MessageKind.HEARTBEAT
HEARTBEAT_RESPONSE = MessageKind.HEARTBEAT_RESPONSE


def test_a_new_leader_appends_a_no_op_of_its_term() -> None:
    driven = Driven(terms=[1, 1])
    appends = of_kind(driven.lead(), APPEND)
    assert [m.to for m in appends] == [2, 3]
    for message in appends:
        assert (message.log_term, message.index) == (1, 2)
        assert [(e.term, e.index, e.payload) for e in message.entries] == [(2, 3, b"")]


def test_appends_leave_before_the_own_sync() -> None:
    driven = Driven()
    driven.lead_replicating()
    index = driven.node.propose(b"x")
    ready = driven.node.ready()
    assert [m.entries[0].index for m in ready.messages] == [index, index]
    assert ready.entries[0].index == index
    assert ready.must_sync


def test_the_own_copy_counts_only_when_it_is_durable() -> None:
    driven = Driven()
    driven.lead_replicating()
    index = driven.node.propose(b"x")
    ready = driven.node.ready()
    driven.node.step(Message(kind=APPEND_RESPONSE, to=1, sender=2, term=1, index=index))
    assert driven.node.commit == index - 1
    driven.store(ready)
    assert driven.node.commit == index


def test_followers_alone_may_commit_but_only_durable_entries_are_applied() -> None:
    driven = Driven()
    driven.lead_replicating()
    index = driven.node.propose(b"x")
    ready = driven.node.ready()
    for sender in (2, 3):
        driven.node.step(Message(kind=APPEND_RESPONSE, to=1, sender=sender, term=1, index=index))
    assert driven.node.commit == index
    later = driven.node.ready()
    assert later.committed == []
    driven.store(ready)
    driven.store(later)
    assert [e.index for e in driven.node.ready().committed] == [index]


def test_one_voter_commits_after_its_own_sync() -> None:
    driven = Driven(membership=Membership((1,)))
    driven.node.campaign()
    driven.pump()
    index = driven.node.propose(b"x")
    ready = driven.node.ready()
    assert driven.node.commit == index - 1
    driven.store(ready)
    assert driven.node.commit == index


def test_entries_of_older_terms_are_not_committed_by_counting() -> None:
    """Figure 8 of the paper: an entry of term 2 on a majority commits only with one of term 4."""
    driven = Driven(terms=[1, 2], hard_state=HardState(3, 0, 1))
    driven.lead()
    driven.acknowledge(2, 2)
    assert driven.node.commit == 1
    driven.acknowledge(2, 3)
    assert driven.node.commit == 3


def test_a_commit_reaches_followers_at_once_if_eager() -> None:
    driven = Driven()
    driven.lead_replicating()
    driven.propose()
    appends = driven.acknowledge(2)
    assert [(m.to, m.commit, len(m.entries)) for m in appends] == [(2, 2, 0), (3, 2, 0)]


def test_a_commit_rides_on_later_messages_if_not_eager() -> None:
    driven = Driven(eager_commit=False)
    driven.lead_replicating()
    driven.propose()
    assert driven.acknowledge(2) == []
    assert driven.node.commit == 2
    assert {m.to: m.commit for m in driven.tick()} == {2: 2, 3: 1}


def test_an_acknowledgement_of_what_was_never_sent_is_refused() -> None:
    driven = Driven()
    driven.lead_replicating()
    with pytest.raises(StepError, match="never sent"):
        driven.acknowledge(2, 99)
    assert driven.node.commit == 1


def test_an_idle_acknowledgement_brings_a_probed_follower_back() -> None:
    driven = Driven()
    driven.lead_replicating()
    driven.node.report_unreachable(2)
    assert driven.node.status().progress[2].mode is ProgressMode.PROBE
    (append,) = driven.step(HEARTBEAT_RESPONSE, 2)
    assert (append.index, append.entries) == (1, [])
    driven.acknowledge(2, 1)
    assert driven.node.status().progress[2].mode is ProgressMode.REPLICATE


def test_unreachable_resends_from_behind_match() -> None:
    driven = Driven()
    driven.lead_replicating()
    driven.propose()
    driven.node.report_unreachable(2)
    progress = driven.node.status().progress[2]
    assert (progress.match, progress.next, progress.inflight_messages) == (1, 2, 0)
    (append,) = driven.step(HEARTBEAT_RESPONSE, 2)
    assert (append.index, [e.index for e in append.entries]) == (1, [2])


def test_reporting_oneself_or_a_stranger_unreachable_does_no_harm() -> None:
    driven = Driven()
    driven.lead_replicating()
    driven.node.report_unreachable(1)
    driven.node.report_unreachable(9)
    driven.propose()
    driven.acknowledge(2)
    progress = driven.node.status().progress[1]
    assert (progress.mode, progress.match, progress.next) == (ProgressMode.REPLICATE, 2, 3)
    assert driven.node.commit == 2


def test_only_a_replicating_follower_is_changed_by_a_report() -> None:
    driven = Driven()
    driven.lead()
    before = driven.node.status()
    driven.node.report_unreachable(2)
    assert driven.node.status() == before
    driven.step(HEARTBEAT, 3, term=2)
    before = driven.node.status()
    driven.node.report_unreachable(3)
    assert driven.node.status() == before


def test_heartbeats_are_sent_at_their_interval_with_the_commit_capped_by_match() -> None:
    driven = Driven(heartbeat_ticks=2)
    driven.lead()
    driven.acknowledge(2)
    assert driven.tick() == []
    beats = driven.tick()
    assert [(m.kind, m.to, m.commit) for m in beats] == [(HEARTBEAT, 2, 1), (HEARTBEAT, 3, 0)]


def test_a_heartbeat_response_resends_what_may_be_lost() -> None:
    driven = Driven()
    driven.lead()
    (append,) = driven.step(HEARTBEAT_RESPONSE, 2)
    assert [e.index for e in append.entries] == [1]
    driven.acknowledge(2, 1)
    assert driven.step(HEARTBEAT_RESPONSE, 2) == []


def test_a_follower_that_needs_compacted_entries_is_sent_a_snapshot_and_waited_for() -> None:
    driven = Driven()
    driven.lead_replicating()
    for _ in range(5):
        driven.propose()
        driven.acknowledge(2)
    snapshot = driven.storage.create_snapshot(4, THREE, b"image")
    driven.storage.compact(4)
    driven.node.report_unreachable(3)
    (sent,) = driven.step(HEARTBEAT_RESPONSE, 3)
    assert (sent.kind, sent.to, sent.snapshot) == (MessageKind.SNAPSHOT, 3, snapshot)
    assert driven.step(HEARTBEAT_RESPONSE, 3) == []
    progress = driven.node.status().progress[3]
    assert (progress.mode, progress.pending_snapshot) == (ProgressMode.SNAPSHOT, 4)
    # The others go on, and so do heartbeats to the one that waits.
    assert [m.to for m in of_kind(driven.propose(), APPEND)] == [2]
    assert len(of_kind(driven.tick(), HEARTBEAT)) == 2
    # It may catch up from another source too.
    appends = driven.acknowledge(3, 5)
    assert [[e.index for e in m.entries] for m in appends if m.to == 3 and m.entries] == [[6, 7]]
    assert driven.node.status().progress[3].mode is ProgressMode.REPLICATE


@both_modes
def test_own_entries_count_only_once_they_are_acknowledged_to_oneself(
    async_storage_writes: bool,
) -> None:
    driven = Driven(async_storage_writes=async_storage_writes)
    driven.lead_replicating()
    matches = []
    for _ in range(3):
        driven.node.propose(b"x")
        ready = driven.node.ready()
        before = driven.node.status().progress[1]
        driven.store(ready)
        after = driven.node.status().progress[1]
        matches.append((before.match, after.match, after.next, after.mode))
        driven.pump()
    assert matches == [(index - 1, index, index + 1, ProgressMode.REPLICATE) for index in (2, 3, 4)]


def test_an_own_acknowledgement_of_an_older_term_counts_for_nothing() -> None:
    driven = Driven()
    driven.lead_replicating()
    driven.node.propose(b"x")
    ready = driven.node.ready()
    driven.node.step(Message(kind=HEARTBEAT, to=1, sender=3, term=2))
    driven.node.step(Message(kind=MessageKind.TIMEOUT_NOW, to=1, sender=3, term=2))
    driven.store(ready)
    votes = of_kind(driven.pump(), MessageKind.VOTE)
    assert [m.term for m in votes] == [3, 3]
    driven.step(MessageKind.VOTE_RESPONSE, 3)
    assert driven.node.is_leader
    status = driven.node.status()
    assert (status.commit, status.last_index, status.progress[1].match) == (1, 3, 3)


@pytest.mark.parametrize(
    ("matches", "commit"),
    [
        ([], 3),
        ([0, 0], 0),
        ([1, 2], 0),
        ([2, 2], 0),
        ([3, 0], 3),
        ([3, 3], 3),
        ([3, 0, 0], 0),
        ([3, 2, 2], 0),
        ([3, 3, 0], 3),
        ([3, 2, 2, 2], 0),
        ([3, 3, 2, 0], 3),
    ],
)
def test_a_quorum_commits_what_has_an_entry_of_the_own_term(
    matches: list[int], commit: int
) -> None:
    """Entries 1 and 2 are of terms 1 and 2, the leader's no-op at 3 is of term 3."""
    voters = Membership(tuple(range(1, len(matches) + 2)))
    driven = Driven(membership=voters, terms=[1, 2])
    if matches:
        driven.lead()
    else:
        driven.node.campaign()
        driven.pump()
    for node, match in enumerate(matches, 2):
        driven.acknowledge(node, match)
    assert driven.node.commit == commit


@pytest.mark.parametrize(
    ("index", "reject", "match", "next_index", "sent", "commit"),
    [
        # A stale refusal teaches nothing.
        (3, True, 0, 3, [], 0),
        # An empty answer ends the search: everything is sent from the start.
        (0, False, 0, 4, [(2, 0, 0)], 0),
        # A refusal of the last probe: one step back.
        (2, True, 0, 2, [(2, 1, 0)], 0),
        # An acknowledgement of entries of an older term commits nothing.
        (2, False, 2, 4, [(2, 2, 0)], 0),
        # Of the own term it does, and both followers hear of it as far as they are not paused.
        (3, False, 3, 4, [(2, 3, 3)], 3),
    ],
)
def test_the_answer_to_the_first_probe_has_these_effects(
    index: int,
    reject: bool,
    match: int,
    next_index: int,
    sent: list[tuple[int, int, int]],
    commit: int,
) -> None:
    """Two entries of term 1 and the no-op at 3: both followers were probed after entry 2."""
    driven = Driven(terms=[1, 1])
    driven.lead()
    messages = driven.step(APPEND_RESPONSE, 2, index=index, reject=reject, reject_hint=index)
    progress = driven.node.status().progress[2]
    assert (progress.match, driven.node.commit) == (match, commit)
    assert [(m.to, m.index, m.commit) for m in messages] == sent
    assert progress.next == next_index


def test_a_commit_is_broadcast_to_those_that_are_not_paused() -> None:
    driven = Driven(membership=Membership((1, 2, 3, 4, 5)))
    driven.lead()
    driven.acknowledge(2)
    sent = driven.acknowledge(3)
    # 4 and 5 were probed with the no-op and have not answered.
    assert [(m.to, m.index, m.commit, len(m.entries)) for m in sent] == [(2, 1, 1, 0), (3, 1, 1, 0)]
    sent = driven.acknowledge(4)
    assert [(m.to, m.index, m.commit, len(m.entries)) for m in sent] == [(4, 1, 1, 0)]


def test_a_follower_that_was_told_the_commit_index_is_not_told_again() -> None:
    driven = Driven()
    driven.lead_replicating()
    driven.propose()
    assert [(m.to, m.commit) for m in driven.acknowledge(2)] == [(2, 2), (3, 2)]
    # 3 was told with the broadcast above; its acknowledgement of the entry needs no further one.
    assert driven.acknowledge(3) == []


def test_an_answer_lets_entries_flow_that_waited_for_it() -> None:
    driven = Driven()
    driven.lead()
    driven.acknowledge(2)
    assert [(m.to, len(m.entries)) for m in driven.propose()] == [(2, 1)]
    sent = driven.acknowledge(3, 1)
    assert [(m.to, m.index, len(m.entries)) for m in sent] == [(3, 1, 1)]
    assert sent[0].entries[0].index == 2


def test_heartbeats_carry_no_entries_and_repeat_a_commit_no_follower_may_lack() -> None:
    driven = Driven(terms=[1] * 10, hard_state=HardState(1, 0, 5))
    driven.lead()
    driven.acknowledge(2, 3)
    driven.acknowledge(3, 11)
    beats = driven.tick()
    assert [(m.kind, m.to, m.term, m.commit) for m in beats] == [
        (HEARTBEAT, 2, 2, 3),
        (HEARTBEAT, 3, 2, 11),
    ]
    assert {(m.index, m.log_term, len(m.entries)) for m in beats} == {(0, 0, 0)}


def test_heartbeat_responses_resend_until_the_log_is_acknowledged() -> None:
    driven = Driven(terms=[1, 2, 3], hard_state=HardState(3, 0, 3))
    driven.lead()
    for _ in range(2):
        (append,) = driven.step(HEARTBEAT_RESPONSE, 2)
        assert (append.kind, append.to, append.index) == (APPEND, 2, 3)
        assert [e.index for e in append.entries] == [4]
    driven.acknowledge(2, 4)
    assert driven.step(HEARTBEAT_RESPONSE, 2) == []


def test_a_removed_leader_that_leads_on_does_not_count_itself() -> None:
    driven = Driven(step_down_on_removal=False)
    driven.lead_replicating()
    change = ConfChange((Change(ChangeKind.REMOVE_NODE, 1),))
    driven.change(change)
    driven.node.propose(b"x")
    unstored = driven.node.ready()
    driven.node.step(Message(kind=APPEND_RESPONSE, to=1, sender=2, term=1, index=2))
    ready = driven.node.ready()
    assert [item.index for item in ready.committed] == [2]
    driven.node.apply_conf_change(change)
    assert (driven.node.membership.voters, driven.node.is_leader) == ((2, 3), True)
    # Its acknowledgement to itself comes when it does not count any more.
    driven.storage.store(unstored)
    driven.node.storage_done(unstored)
    driven.node.step(Message(kind=APPEND_RESPONSE, to=1, sender=2, term=1, index=3))
    assert driven.node.commit == 2
    assert sorted(driven.node.status().progress) == [2, 3]
    driven.node.step(Message(kind=APPEND_RESPONSE, to=1, sender=3, term=1, index=3))
    assert driven.node.commit == 3


def test_held_reads_are_released_with_the_first_commit_of_the_term() -> None:
    driven = Driven(terms=[1, 1])
    driven.lead()
    driven.node.read_index(b"r")
    assert driven.pump() == []
    sent = of_kind(driven.acknowledge(2), HEARTBEAT)
    assert [m.to for m in sent] == [2, 3]
    driven.step(HEARTBEAT_RESPONSE, 3, context=sent[0].context)
    assert [(read.index, read.context) for read in driven.reads] == [(3, b"r")]


def test_a_transferee_is_told_when_its_acknowledgement_completes_the_log() -> None:
    driven = Driven()
    driven.lead_replicating()
    driven.propose()
    driven.node.transfer_leadership(2)
    assert of_kind(driven.pump(), MessageKind.TIMEOUT_NOW) == []
    assert of_kind(driven.acknowledge(3), MessageKind.TIMEOUT_NOW) == []
    orders = of_kind(driven.acknowledge(2), MessageKind.TIMEOUT_NOW)
    assert [(m.to, m.term) for m in orders] == [(2, 1)]
