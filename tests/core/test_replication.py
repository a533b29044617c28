from __future__ import annotations

import pytest

from rafter_core import (
    HardState,
    Membership,
    Message,
    MessageKind,
    ProgressMode,
    ProposalDropped,
    StepError,
)
from tests.core.support import Driven, of_kind

APPEND = MessageKind.APPEND
APPEND_RESPONSE = MessageKind.APPEND_RESPONSE
HEARTBEAT = MessageKind.HEARTBEAT
HEARTBEAT_RESPONSE = MessageKind.HEARTBEAT_RESPONSE


def propose(driven: Driven, payload: bytes = b"x") -> list[Message]:
    driven.node.propose(payload)
    return driven.pump()


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
    propose(driven)
    appends = driven.acknowledge(2)
    assert [(m.to, m.commit, len(m.entries)) for m in appends] == [(2, 2, 0), (3, 2, 0)]


def test_a_commit_rides_on_later_messages_if_not_eager() -> None:
    driven = Driven(eager_commit=False)
    driven.lead_replicating()
    propose(driven)
    assert driven.acknowledge(2) == []
    assert driven.node.commit == 2
    assert {m.to: m.commit for m in driven.tick()} == {2: 2, 3: 1}


def test_only_the_leader_takes_proposals() -> None:
    driven = Driven()
    with pytest.raises(ProposalDropped, match="node 1 is not the leader of term 0"):
        driven.node.propose(b"x")


def test_uncommitted_bytes_are_bounded_and_freed_by_applying() -> None:
    driven = Driven(uncommitted_bytes_max=10)
    driven.lead_replicating()
    propose(driven, b"x" * 50)
    with pytest.raises(ProposalDropped, match="50 bytes are uncommitted, the limit is 10"):
        driven.node.propose(b"x")
    driven.node.propose(b"")
    driven.pump()
    driven.acknowledge(2)
    assert driven.node.status().uncommitted_bytes == 0
    propose(driven, b"x" * 6)
    with pytest.raises(ProposalDropped):
        driven.node.propose(b"x" * 5)
    propose(driven, b"x" * 4)


def test_a_probed_follower_gets_one_append_until_it_answers() -> None:
    driven = Driven()
    driven.lead()
    assert of_kind(propose(driven), APPEND) == []
    (append,) = driven.step(HEARTBEAT_RESPONSE, 2)
    assert (append.to, len(append.entries)) == (2, 2)
    assert driven.acknowledge(2, 1)[0].entries[0].index == 2
    assert driven.node.status().progress[2].mode is ProgressMode.REPLICATE


def test_a_replicating_follower_is_sent_to_ahead_of_its_answers() -> None:
    driven = Driven()
    driven.lead_replicating()
    for index in range(2, 6):
        appends = propose(driven)
        assert [m.entries[0].index for m in appends] == [index, index]


def test_the_window_by_count_pauses_and_an_answer_refills_it() -> None:
    driven = Driven(inflight_messages_max=2)
    driven.lead_replicating()
    sent = [len(of_kind(propose(driven), APPEND)) for _ in range(4)]
    assert sent == [2, 2, 0, 0]
    appends = [m for m in driven.acknowledge(2, 2) if m.to == 2 and m.entries]
    assert [(m.entries[0].index, len(m.entries)) for m in appends] == [(4, 2)]


def test_the_window_by_bytes_pauses() -> None:
    driven = Driven(inflight_bytes_max=100, message_bytes_max=100)
    driven.lead_replicating()
    assert len(propose(driven, b"x" * 90)) == 2
    assert propose(driven, b"x") == []


def test_a_full_window_sends_one_empty_append_for_each_heartbeat_response() -> None:
    driven = Driven(inflight_messages_max=1)
    driven.lead_replicating()
    propose(driven)
    propose(driven)
    for _ in range(2):
        (append,) = driven.step(HEARTBEAT_RESPONSE, 2)
        assert (append.index, append.entries) == (2, [])


def test_messages_are_limited_and_the_rest_follows() -> None:
    driven = Driven(message_bytes_max=40)
    driven.lead()
    for _ in range(4):
        propose(driven, b"x" * 10)
    appends = [m for m in driven.acknowledge(2, 1) if m.to == 2]
    assert [[e.index for e in m.entries] for m in appends if m.entries] == [[2], [3], [4], [5]]


def test_a_refusal_in_replicate_goes_back_to_probing_behind_match() -> None:
    driven = Driven()
    driven.lead_replicating()
    propose(driven)
    propose(driven)
    (append,) = driven.step(APPEND_RESPONSE, 2, index=2, reject=True, reject_hint=1)
    assert (append.index, len(append.entries)) == (1, 2)
    assert driven.node.status().progress[2].mode is ProgressMode.PROBE


def test_a_delayed_refusal_does_not_push_next_below_match() -> None:
    driven = Driven()
    driven.lead_replicating()
    propose(driven)
    driven.acknowledge(2, 2)
    assert driven.step(APPEND_RESPONSE, 2, index=1, reject=True, reject_hint=0) == []
    assert driven.node.status().progress[2].match == 2


def test_backtracking_skips_a_whole_term_for_each_refusal() -> None:
    """The follower ran ahead in term 2; the leader's log has terms 3 and 4 there instead."""
    driven = Driven(terms=[1, 1, 3, 3, 3, 3, 4, 4])
    driven.lead()
    appends = driven.step(APPEND_RESPONSE, 2, index=8, reject=True, reject_hint=8, log_term=2)
    assert [m.index for m in appends] == [2]


def test_a_hint_without_a_term_is_used_as_it_is() -> None:
    driven = Driven(terms=[1, 1, 1])
    driven.lead()
    appends = driven.step(APPEND_RESPONSE, 2, index=3, reject=True, reject_hint=1)
    assert [m.index for m in appends] == [1]


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
    propose(driven)
    driven.node.report_unreachable(2)
    progress = driven.node.status().progress[2]
    assert (progress.match, progress.next, progress.inflight_messages) == (1, 2, 0)
    driven.node.report_unreachable(1)
    driven.node.report_unreachable(9)
    assert driven.node.status().progress[1].mode is ProgressMode.REPLICATE


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


def test_a_follower_that_needs_compacted_entries_is_flagged_and_spared() -> None:
    driven = Driven()
    driven.lead_replicating()
    for _ in range(5):
        propose(driven)
        driven.acknowledge(2)
    driven.storage.compact(4)
    driven.node.report_unreachable(3)
    assert driven.step(HEARTBEAT_RESPONSE, 3) == []
    assert driven.node.status().progress[3].needs_snapshot
    assert driven.step(HEARTBEAT_RESPONSE, 3) == []
    assert driven.event_names().count("snapshot_needed") == 1
    # The others go on, and so do heartbeats to the one that waits.
    assert [m.to for m in of_kind(propose(driven), APPEND)] == [2]
    assert len(of_kind(driven.tick(), HEARTBEAT)) == 2
    # If it does catch up (from another source), the flag goes.
    driven.acknowledge(3, 5)
    assert not driven.node.status().progress[3].needs_snapshot
