"""What a leader knows about one follower: every field after every transition."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rafter_core import InvariantError
from rafter_core.inflights import Inflights
from rafter_core.progress import PROBE, REPLICATE, SNAPSHOT, Progress, ProgressMode


def progress(
    match: int = 0,
    next_index: int = 1,
    mode: ProgressMode = PROBE,
    *,
    messages_max: int = 2,
    bytes_max: int = 1000,
) -> Progress:
    item = Progress(2, 1, Inflights(messages_max, bytes_max))
    item.match = match
    item.next = next_index
    item.mode = mode
    return item


def marks(item: Progress) -> tuple[int, int, ProgressMode]:
    return item.match, item.next, item.mode


def test_modes_have_the_numbers_of_etcd() -> None:
    assert [(mode.name, mode.value) for mode in ProgressMode] == [
        ("PROBE", 0),
        ("REPLICATE", 1),
        ("SNAPSHOT", 2),
    ]


def test_a_new_progress_knows_nothing() -> None:
    item = Progress(2, 5, Inflights(2, 10))
    assert item.node == 2
    assert marks(item) == (0, 5, PROBE)
    assert (item.recent_active, item.flow_paused, item.is_paused) == (False, False, False)
    assert (item.pending_snapshot, item.sent_commit, item.read_acknowledged) == (0, 0, 0)
    assert len(item.inflights) == 0


def test_reset_forgets_everything_that_an_earlier_term_taught() -> None:
    item = progress(3, 9, REPLICATE, messages_max=1)
    item.sent(1, 10, 8)
    item.recent_active = True
    item.pending_snapshot = item.read_acknowledged = 7
    item.reset(4, 6)
    assert marks(item) == (4, 6, PROBE)
    assert (item.recent_active, item.flow_paused) == (False, False)
    assert (item.pending_snapshot, item.sent_commit, item.read_acknowledged) == (0, 0, 0)
    assert (len(item.inflights), item.inflights.bytes_total) == (0, 0)
    assert not item.inflights.is_full


@pytest.mark.parametrize(("match", "next_index"), [(4, 4), (5, 4), (0, 0), (-1, 1)])
def test_reset_to_an_impossible_position_is_refused(match: int, next_index: int) -> None:
    with pytest.raises(
        InvariantError,
        match=f"progress of node 2: match {match} must be below next {next_index}",
    ):
        progress().reset(match, next_index)


@pytest.mark.parametrize(
    ("mode", "flow_paused", "expected"),
    [
        (PROBE, False, False),
        (PROBE, True, True),
        (REPLICATE, False, False),
        (REPLICATE, True, True),
        (SNAPSHOT, False, True),
        (SNAPSHOT, True, True),
    ],
)
def test_a_snapshot_or_a_full_flow_pauses(
    mode: ProgressMode, flow_paused: bool, expected: bool
) -> None:
    item = progress(mode=mode)
    item.flow_paused = flow_paused
    assert item.is_paused is expected


# ---- becoming ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "next_index", "pending", "expected_next"),
    [
        (REPLICATE, 5, 0, 2),
        (PROBE, 9, 0, 2),
        # A snapshot that was applied: go on behind it.
        (SNAPSHOT, 11, 10, 11),
        # A snapshot that failed: its index was taken back before.
        (SNAPSHOT, 11, 0, 2),
        (SNAPSHOT, 2, 1, 2),
    ],
)
def test_a_probe_starts_just_behind_what_is_known(
    mode: ProgressMode, next_index: int, pending: int, expected_next: int
) -> None:
    item = progress(1, next_index, mode)
    item.pending_snapshot = pending
    item.flow_paused = True
    item.inflights.add(next_index, 5)
    item.become_probe()
    assert marks(item) == (1, expected_next, PROBE)
    assert (item.flow_paused, item.pending_snapshot, len(item.inflights)) == (False, 0, 0)


@pytest.mark.parametrize(("sent_commit", "expected"), [(2, 2), (3, 3), (4, 3), (9, 3)])
def test_a_probe_forgets_the_commit_index_that_may_be_lost(sent_commit: int, expected: int) -> None:
    item = progress(3, 9, REPLICATE)
    item.sent_commit = sent_commit
    item.become_probe()
    assert (item.next, item.sent_commit) == (4, expected)


def test_replicating_starts_just_behind_match() -> None:
    item = progress(3, 9)
    item.flow_paused = True
    item.pending_snapshot = 8
    item.sent_commit = 2
    item.inflights.add(8, 5)
    item.become_replicate()
    assert marks(item) == (3, 4, REPLICATE)
    assert (item.flow_paused, item.pending_snapshot, len(item.inflights)) == (False, 0, 0)
    assert item.sent_commit == 2


def test_a_snapshot_is_waited_for() -> None:
    item = progress(3, 5)
    item.flow_paused = True
    item.inflights.add(4, 5)
    item.become_snapshot(10)
    assert marks(item) == (3, 11, SNAPSHOT)
    assert (item.pending_snapshot, item.sent_commit) == (10, 10)
    assert (item.flow_paused, item.is_paused, len(item.inflights)) == (False, True, 0)


def test_a_snapshot_that_the_follower_is_beyond_is_refused() -> None:
    with pytest.raises(InvariantError, match="match 11 must be below next 11"):
        progress(11, 12).become_snapshot(10)
    item = progress(10, 12)
    item.become_snapshot(10)
    assert marks(item) == (10, 11, SNAPSHOT)


# ---- answers -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("index", "expected", "match", "next_index"),
    [
        (2, False, 3, 5),
        (3, False, 3, 5),
        (4, True, 4, 5),
        (5, True, 5, 6),
        (6, True, 6, 7),
    ],
)
def test_an_acknowledgement_raises_match_and_perhaps_next(
    index: int, expected: bool, match: int, next_index: int
) -> None:
    item = progress(3, 5)
    assert item.acknowledge(index) is expected
    assert marks(item) == (match, next_index, PROBE)


@pytest.mark.parametrize(("index", "is_paused"), [(3, True), (4, False)])
def test_only_an_acknowledgement_that_teaches_something_resumes(
    index: int, is_paused: bool
) -> None:
    item = progress(3, 5)
    item.flow_paused = True
    item.acknowledge(index)
    assert item.flow_paused is is_paused


@pytest.mark.parametrize(
    ("match", "next_index", "rejected", "hint", "expected", "expected_next"),
    [
        # REPLICATE: anything above match goes back to just behind it.
        (5, 10, 4, 4, False, 10),
        (5, 10, 5, 5, False, 10),
        (5, 10, 6, 6, True, 6),
        (5, 10, 9, 9, True, 6),
        (0, 10, 9, 2, True, 1),
    ],
)
def test_a_refusal_in_replicate_falls_back_to_match(
    match: int, next_index: int, rejected: int, hint: int, expected: bool, expected_next: int
) -> None:
    item = progress(match, next_index, REPLICATE)
    item.flow_paused = True
    assert item.reject(rejected, hint) is expected
    assert marks(item) == (match, expected_next, REPLICATE)
    assert item.flow_paused


@pytest.mark.parametrize("mode", [PROBE, SNAPSHOT])
@pytest.mark.parametrize(
    ("match", "next_index", "rejected", "hint", "expected", "expected_next"),
    [
        # Not the outstanding append.
        (0, 0, 0, 0, False, 0),
        (0, 10, 5, 5, False, 10),
        (0, 10, 8, 8, False, 10),
        (0, 10, 10, 9, False, 10),
        # It is: go where the follower says, but not beyond what was refused.
        (0, 10, 9, 9, True, 9),
        (0, 10, 9, 8, True, 9),
        (0, 10, 9, 7, True, 8),
        (0, 10, 9, 2, True, 3),
        (0, 10, 9, 0, True, 1),
        (0, 2, 1, 1, True, 1),
        (0, 1, 0, 0, True, 1),
        # Never to match or below.
        (5, 10, 9, 6, True, 7),
        (5, 10, 9, 5, True, 6),
        (5, 10, 9, 4, True, 6),
        (5, 10, 9, 2, True, 6),
    ],
)
def test_a_refusal_counts_once_and_never_leads_to_match(
    mode: ProgressMode,
    match: int,
    next_index: int,
    rejected: int,
    hint: int,
    expected: bool,
    expected_next: int,
) -> None:
    item = progress(match, next_index, mode)
    item.flow_paused = True
    assert item.reject(rejected, hint) is expected
    assert marks(item) == (match, expected_next, mode)
    assert item.flow_paused is not expected


@pytest.mark.parametrize("mode", [PROBE, REPLICATE])
@pytest.mark.parametrize(("sent_commit", "expected"), [(3, 3), (4, 4), (5, 4), (9, 4)])
def test_a_refusal_forgets_the_commit_index_that_may_be_lost(
    mode: ProgressMode, sent_commit: int, expected: int
) -> None:
    item = progress(4, 10, mode)
    item.sent_commit = sent_commit
    assert item.reject(9, 0)
    assert (item.next, item.sent_commit) == (5, expected)


def test_a_stale_refusal_forgets_nothing() -> None:
    item = progress(4, 10)
    item.sent_commit = 9
    assert not item.reject(8, 0)
    assert item.sent_commit == 9


# ---- sending -----------------------------------------------------------------------------------


def test_a_probe_sends_one_append_with_entries_and_pauses() -> None:
    item = progress()
    item.sent(3, 30, 7)
    assert item.flow_paused
    assert (item.next, item.sent_commit, len(item.inflights)) == (1, 7, 0)


def test_an_empty_append_does_not_pause_a_probe() -> None:
    item = progress()
    item.sent(0, 0, 7)
    assert (item.flow_paused, item.next, item.sent_commit) == (False, 1, 7)


def test_an_empty_append_leaves_a_paused_probe_paused() -> None:
    item = progress()
    item.sent(1, 1, 0)
    item.sent(0, 0, 7)
    assert item.flow_paused


def test_replicating_runs_ahead_until_the_window_is_full() -> None:
    item = progress(0, 1, REPLICATE)
    item.sent(2, 20, 5)
    assert (item.next, item.flow_paused, item.sent_commit) == (3, False, 5)
    assert (len(item.inflights), item.inflights.bytes_total) == (1, 20)
    item.sent(1, 10, 6)
    assert (item.next, item.flow_paused, item.sent_commit) == (4, True, 6)
    assert (len(item.inflights), item.inflights.bytes_total) == (2, 30)
    item.inflights.free_to(2)
    assert len(item.inflights) == 1
    item.inflights.free_to(3)
    assert len(item.inflights) == 0


@pytest.mark.parametrize(("size_bytes", "is_paused"), [(999, False), (1000, True)])
def test_replicating_pauses_when_the_window_is_full_by_bytes(
    size_bytes: int, is_paused: bool
) -> None:
    item = progress(0, 1, REPLICATE)
    item.sent(1, size_bytes, 0)
    assert item.flow_paused is is_paused


def test_an_empty_append_takes_no_room_in_the_window() -> None:
    item = progress(0, 1, REPLICATE)
    item.flow_paused = True
    item.sent(0, 0, 3)
    assert (item.next, len(item.inflights), item.flow_paused) == (1, 0, False)


def test_an_empty_append_into_a_full_window_pauses_again() -> None:
    item = progress(0, 1, REPLICATE)
    item.sent(1, 1, 0)
    item.sent(1, 1, 0)
    item.flow_paused = False
    item.sent(0, 0, 3)
    assert (item.next, len(item.inflights), item.flow_paused) == (3, 2, True)


@pytest.mark.parametrize(
    ("sent_commit", "next_index", "commit", "expected"),
    [
        (3, 10, 3, False),
        (3, 10, 4, True),
        (4, 10, 3, False),
        # Everything below next commits already with what was sent.
        (8, 10, 11, True),
        (9, 10, 11, False),
        (10, 10, 11, False),
        (0, 1, 1, False),
        (0, 2, 1, True),
    ],
)
def test_an_append_for_the_commit_index_alone_must_move_it(
    sent_commit: int, next_index: int, commit: int, expected: bool
) -> None:
    item = progress(0, next_index, REPLICATE)
    item.sent_commit = sent_commit
    assert item.lacks_commit(commit) is expected


# ---- whatever happens --------------------------------------------------------------------------


@given(
    st.lists(
        st.tuples(st.sampled_from("arpsmn"), st.integers(0, 12), st.integers(0, 12)), max_size=40
    )
)
def test_match_stays_below_next_whatever_arrives(
    inputs: list[tuple[str, int, int]],
) -> None:
    item = progress(0, 6)
    best = 0
    for action, first, second in inputs:
        if action == "a":
            if item.acknowledge(first) and item.mode is not REPLICATE:
                item.become_probe()
                item.become_replicate()
            item.inflights.free_to(first)
        elif action == "r":
            if item.reject(first, second) and item.mode is REPLICATE:
                item.become_probe()
        elif action == "p":
            item.become_probe()
        elif action == "m":
            item.flow_paused = False
        elif action == "n":
            item.become_snapshot(max(first, item.match))
        elif not item.is_paused and not item.inflights.is_full:
            item.sent(first % 3, first, second)
        assert 0 <= item.match < item.next
        assert item.match >= best
        assert bool(item.pending_snapshot) <= (item.mode is SNAPSHOT)
        best = item.match


@pytest.mark.parametrize(
    ("mode", "active", "paused", "inflight", "expected"),
    [
        (PROBE, True, False, 0, "<PROBE match=3 next=4>"),
        (PROBE, False, False, 0, "<PROBE match=3 next=4 inactive>"),
        (PROBE, True, True, 0, "<PROBE match=3 next=4 paused>"),
        (REPLICATE, True, False, 1, "<REPLICATE match=3 next=4 inflight=1>"),
        (REPLICATE, False, True, 2, "<REPLICATE match=3 next=4 paused inactive inflight=2>"),
    ],
)
def test_repr_shows_what_an_operator_needs(
    mode: ProgressMode, active: bool, paused: bool, inflight: int, expected: str
) -> None:
    item = progress(3, 4, mode)
    item.recent_active = active
    item.flow_paused = paused
    for index in range(inflight):
        item.inflights.add(index, 1)
    assert repr(item) == expected


def test_repr_shows_the_snapshot_on_its_way() -> None:
    item = progress(3, 4)
    item.become_snapshot(10)
    assert repr(item) == "<SNAPSHOT match=3 next=11 paused pending_snapshot=10 inactive>"
