import pytest
from hypothesis import given
from hypothesis import strategies as st

from rafter_kv import sessions as sessions_module
from rafter_kv.sessions import IDLE_MILLISECONDS_MAX, UNACKNOWLEDGED_MAX, Sessions, Status


def send(
    sessions: Sessions, sequence: int, acknowledged_below: int = 1, now_ms: int = 0, who: int = 7
) -> Status:
    status, session = sessions.admit(who, sequence, acknowledged_below, now_ms)
    assert (session is not None) == (status in (Status.RUN, Status.DUPLICATE))
    if status is Status.RUN:
        assert session is not None
        session.record(sequence, [sequence])
    elif status is Status.DUPLICATE:
        assert session is not None
        assert session.results[sequence] == [sequence]
    return status


def test_each_batch_runs_once() -> None:
    sessions = Sessions()
    assert [send(sessions, sequence) for sequence in (1, 1, 2, 1, 2)] == [
        Status.RUN,
        Status.DUPLICATE,
        Status.RUN,
        Status.DUPLICATE,
        Status.DUPLICATE,
    ]


def test_a_batch_ahead_of_its_turn_does_not_run() -> None:
    sessions = Sessions()
    assert send(sessions, 2) is Status.GAP
    assert len(sessions) == 0
    send(sessions, 1)
    assert send(sessions, 3) is Status.GAP
    assert send(sessions, 2) is Status.RUN
    assert send(sessions, 3) is Status.RUN


def test_a_session_that_once_acknowledged_cannot_begin_anew() -> None:
    # Its batch may have been applied before the session was forgotten.
    assert send(Sessions(), 5, acknowledged_below=5) is Status.EXPIRED
    assert send(Sessions(), 1, acknowledged_below=2) is Status.EXPIRED


def test_acknowledged_results_are_dropped_and_not_asked_for_again() -> None:
    sessions = Sessions()
    for sequence in (1, 2, 3):
        send(sessions, sequence)
    assert send(sessions, 4, acknowledged_below=3) is Status.RUN
    (_, session), *_ = sessions.items()
    assert sorted(session.results) == [3, 4]
    assert send(sessions, 2) is Status.EXPIRED
    assert send(sessions, 3) is Status.DUPLICATE


def test_an_acknowledgement_of_what_was_never_run_is_cut_down() -> None:
    sessions = Sessions()
    send(sessions, 1)
    assert send(sessions, 2, acknowledged_below=1 << 63) is Status.RUN
    assert send(sessions, 2) is Status.DUPLICATE
    assert send(sessions, 3) is Status.RUN


def test_results_nobody_acknowledges_are_bounded_in_number_and_bytes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sessions = Sessions()
    for sequence in range(1, UNACKNOWLEDGED_MAX + 1):
        assert send(sessions, sequence) is Status.RUN
    assert send(sessions, UNACKNOWLEDGED_MAX + 1) is Status.REFUSED
    assert send(sessions, UNACKNOWLEDGED_MAX + 1, acknowledged_below=2) is Status.RUN

    monkeypatch.setattr(sessions_module, "RESULT_BYTES_MAX", 10)
    _, session = sessions.admit(8, 1, 1, 0)
    assert session is not None
    session.record(1, [b"x" * 11, None, "+OK", 5])
    assert send(sessions, 2, who=8) is Status.REFUSED
    assert send(sessions, 2, who=8, acknowledged_below=2) is Status.RUN


def test_new_sessions_are_refused_beyond_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions_module, "SESSIONS_MAX", 2)
    sessions = Sessions()
    assert [send(sessions, 1, who=who) for who in (1, 2, 3)] == [
        Status.RUN,
        Status.RUN,
        Status.REFUSED,
    ]
    assert send(sessions, 2, who=1) is Status.RUN


def test_only_idle_sessions_are_forgotten_and_a_few_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sessions_module, "EVICTIONS_PER_UPDATE_MAX", 2)
    sessions = Sessions()
    for who in range(5):
        send(sessions, 1, who=who, now_ms=who)
    send(sessions, 1, who=0, now_ms=100)
    assert sessions.evict(1 + IDLE_MILLISECONDS_MAX) == 0
    assert sessions.evict(4 + IDLE_MILLISECONDS_MAX) == 2
    assert sessions.evict(4 + IDLE_MILLISECONDS_MAX) == 1
    assert [identity for identity, _ in sessions.items()] == [4, 0]
    assert send(sessions, 2, acknowledged_below=2, who=1) is Status.EXPIRED


@given(st.lists(st.tuples(st.integers(-1, 6), st.integers(0, 7)), max_size=40))
def test_no_order_of_arrivals_runs_a_batch_twice_or_out_of_turn(
    arrivals: list[tuple[int, int]],
) -> None:
    sessions = Sessions()
    run = [
        sequence for sequence, below in arrivals if send(sessions, sequence, below) is Status.RUN
    ]
    assert run == list(range(1, len(run) + 1))
