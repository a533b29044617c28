"""Flow control: how many appends of what size a follower is sent ahead of its answers."""

from __future__ import annotations

import pytest

from rafter_core import MessageKind, ProgressMode
from tests.core.support import THREE, Driven, both_modes, of_kind

APPEND = MessageKind.APPEND
APPEND_RESPONSE = MessageKind.APPEND_RESPONSE
HEARTBEAT = MessageKind.HEARTBEAT
HEARTBEAT_RESPONSE = MessageKind.HEARTBEAT_RESPONSE


def test_a_probed_follower_gets_one_append_until_it_answers() -> None:
    driven = Driven()
    driven.lead()
    assert of_kind(driven.propose(), APPEND) == []
    (append,) = driven.step(HEARTBEAT_RESPONSE, 2)
    assert (append.to, len(append.entries)) == (2, 2)
    assert driven.acknowledge(2, 1)[0].entries[0].index == 2
    assert driven.node.status().progress[2].mode is ProgressMode.REPLICATE


def test_a_replicating_follower_is_sent_to_ahead_of_its_answers() -> None:
    driven = Driven()
    driven.lead_replicating()
    for index in range(2, 6):
        appends = driven.propose()
        assert [m.entries[0].index for m in appends] == [index, index]


def test_the_window_by_count_pauses_and_an_answer_refills_it() -> None:
    driven = Driven(inflight_messages_max=2)
    driven.lead_replicating()
    sent = [len(of_kind(driven.propose(), APPEND)) for _ in range(4)]
    assert sent == [2, 2, 0, 0]
    appends = [m for m in driven.acknowledge(2, 2) if m.to == 2 and m.entries]
    assert [(m.entries[0].index, len(m.entries)) for m in appends] == [(4, 2)]


def test_the_window_by_bytes_pauses() -> None:
    driven = Driven(inflight_bytes_max=100, message_bytes_max=100)
    driven.lead_replicating()
    assert len(driven.propose(b"x" * 99)) == 2
    assert len(driven.propose(b"x" * 99)) == 2
    assert driven.propose(b"x") == []


def test_a_full_window_sends_one_empty_append_for_each_heartbeat_response() -> None:
    driven = Driven(inflight_messages_max=1)
    driven.lead_replicating()
    driven.propose()
    driven.propose()
    for _ in range(2):
        (append,) = driven.step(HEARTBEAT_RESPONSE, 2)
        assert (append.index, append.entries) == (2, [])


def test_messages_are_limited_and_the_rest_follows() -> None:
    driven = Driven(message_bytes_max=31)
    driven.lead()
    for _ in range(4):
        driven.propose(b"x" * 10)
    appends = [m for m in driven.acknowledge(2, 1) if m.to == 2]
    assert [[e.index for e in m.entries] for m in appends if m.entries] == [[2], [3], [4], [5]]


def test_a_refusal_in_replicate_goes_back_to_probing_behind_match() -> None:
    driven = Driven()
    driven.lead_replicating()
    driven.propose()
    driven.propose()
    (append,) = driven.step(APPEND_RESPONSE, 2, index=2, reject=True, reject_hint=1)
    assert (append.index, len(append.entries)) == (1, 2)
    assert driven.node.status().progress[2].mode is ProgressMode.PROBE


def test_in_probe_proposals_cause_no_append_until_a_heartbeat_is_answered() -> None:
    driven = Driven()
    driven.lead()
    for _ in range(3):
        for _ in range(3):
            assert driven.propose() == []
        (beat, other) = driven.tick()
        assert (beat.kind, beat.to, other.to) == (HEARTBEAT, 2, 3)
        progress = driven.node.status().progress[2]
        assert (progress.mode, progress.flow_paused) == (ProgressMode.PROBE, True)
        (append,) = driven.step(HEARTBEAT_RESPONSE, 2)
        assert (append.kind, append.index) == (APPEND, 0)
        assert len(append.entries) == driven.node.last_index
        progress = driven.node.status().progress[2]
        assert (progress.flow_paused, progress.next) == (True, 1)


def test_next_advances_optimistically_in_replicate_only() -> None:
    driven = Driven(terms=[1, 1])
    driven.lead()
    driven.acknowledge(2, 3)
    driven.propose()
    progress = driven.node.status().progress
    assert (progress[2].mode, progress[2].match, progress[2].next) == (ProgressMode.REPLICATE, 3, 5)
    assert (progress[3].mode, progress[3].match, progress[3].next) == (ProgressMode.PROBE, 0, 3)


def test_in_replicate_every_proposal_is_sent_at_once() -> None:
    driven = Driven()
    driven.lead_replicating()
    for index in range(2, 12):
        sent = [(m.to, m.index, len(m.entries)) for m in driven.propose()]
        assert sent == [(2, index - 1, 1), (3, index - 1, 1)]
    progress = driven.node.status().progress[2]
    assert (progress.next, progress.inflight_messages, progress.flow_paused) == (12, 10, False)


def test_in_snapshot_nothing_is_sent() -> None:
    driven = Driven(terms=[1, 1, 1])
    driven.storage.create_snapshot(3, THREE)
    driven.storage.compact(3)
    driven.restart(applied=3)
    driven.lead()
    (snapshot,) = driven.step(APPEND_RESPONSE, 2, index=3, reject=True, reject_hint=0)
    assert snapshot.kind is MessageKind.SNAPSHOT
    for _ in range(10):
        assert [m.to for m in driven.propose()] == []
    assert driven.step(HEARTBEAT_RESPONSE, 2) == []
    progress = driven.node.status().progress[2]
    assert (progress.mode, progress.next) == (ProgressMode.SNAPSHOT, 4)


@both_modes
def test_messages_fill_the_window_up_to_their_size_and_answers_refill_it(
    async_storage_writes: bool,
) -> None:
    driven = Driven(
        inflight_messages_max=3,
        message_bytes_max=2048,
        inflight_bytes_max=1 << 20,
        async_storage_writes=async_storage_writes,
    )
    driven.lead()
    for _ in range(10):
        assert driven.propose(b"a" * 1000) == []

    def sent(index: int) -> list[list[int]]:
        appends = [m for m in driven.acknowledge(2, index) if m.to == 2 and m.entries]
        return [[e.index for e in m.entries] for m in appends]

    assert sent(1) == [[2, 3], [4, 5], [6, 7]]
    assert driven.node.status().progress[2].inflight_messages == 3
    assert sent(7) == [[8, 9], [10, 11]]
    assert driven.node.status().progress[2].inflight_messages == 2
    assert sent(11) == []


def test_the_window_by_bytes_takes_one_message_beyond_its_limit() -> None:
    driven = Driven(inflight_bytes_max=3000, message_bytes_max=1500)
    driven.lead_replicating()
    sent = [len(driven.propose(b"a" * 1400)) for _ in range(5)]
    assert sent == [2, 2, 2, 0, 0]
    assert driven.node.status().progress[2].inflight_messages == 3
    # Two are freed, so two fit again: one below the limit, one beyond.
    appends = [m for m in driven.acknowledge(2, 3) if m.to == 2 and m.entries]
    assert [[e.index for e in m.entries] for m in appends] == [[5], [6]]


@pytest.mark.parametrize("window", [1, 8, 256])
def test_a_full_window_stops_appends_with_entries(window: int) -> None:
    driven = Driven(inflight_messages_max=window)
    driven.lead_replicating()
    sent = [len(of_kind(driven.propose(), APPEND)) for _ in range(window + 10)]
    assert sent == [2] * window + [0] * 10
    progress = driven.node.status().progress[2]
    assert (progress.inflight_messages, progress.flow_paused) == (window, True)


def test_an_answer_frees_what_it_acknowledges_and_a_stale_one_nothing() -> None:
    window = 8
    driven = Driven(inflight_messages_max=window)
    driven.lead_replicating()
    for _ in range(window):
        driven.propose()
    for index in range(2, 2 + window):
        # One message is acknowledged: there is room for exactly one more.
        driven.acknowledge(2, index)
        assert driven.node.status().progress[2].inflight_messages == window - 1
        assert [m.to for m in of_kind(driven.propose(), APPEND)] == [2]
        for stale in range(index + 1):
            assert of_kind(driven.acknowledge(2, stale), APPEND) == []
            assert driven.node.status().progress[2].inflight_messages == window


@pytest.mark.parametrize("rounds", [1, 2, 5])
def test_a_full_window_is_probed_once_for_each_heartbeat_response(rounds: int) -> None:
    window = 4
    driven = Driven(inflight_messages_max=window)
    driven.lead_replicating()
    for _ in range(window + 1):
        driven.propose()
    for _ in range(rounds):
        (append,) = driven.step(HEARTBEAT_RESPONSE, 2)
        assert (append.index, append.entries) == (1 + window, [])
        progress = driven.node.status().progress[2]
        assert (progress.inflight_messages, progress.flow_paused) == (window, True)
        assert of_kind(driven.propose(), APPEND) == []
    # The answer to the empty append acknowledges all that was in flight.
    appends = [m for m in driven.acknowledge(2, 1 + window) if m.to == 2 and m.entries]
    assert appends[0].entries[0].index == 2 + window
    assert driven.node.status().progress[2].inflight_messages == len(appends)
