"""The receiving machine in virtual time."""

import pytest

from rafter_transport.express_limits import ExpressLimits
from rafter_transport.express_messages import (
    Accept,
    Ack,
    Cancel,
    Chunk,
    Done,
    ExpressError,
    Message,
    Offer,
    Refuse,
    make_chunk,
)
from rafter_transport.express_receiver import ReceiveMachine, Task
from rafter_transport.express_sender import Ending

LIMITS = ExpressLimits(
    window_bytes=40, chunk_bytes_max=20, manifest_bytes_max=8, message_bytes_max=8,
    progress_seconds=10,
)  # fmt: skip
OFFER = Offer(5, 7, 1, 2, 6, b"message", b"manifest")


def chunk(number: int, length: int = 10) -> Chunk:
    return make_chunk(5, number, bytes([number]) * length)


def machine_of(window_bytes: int = 40) -> ReceiveMachine:
    return ReceiveMachine(2, 1, LIMITS._replace(window_bytes=window_bytes), 0)


def receiving(next_chunk: int = 0) -> ReceiveMachine:
    machine = machine_of()
    assert machine.receive(OFFER, 0) is None
    assert machine.begin() == OFFER
    assert machine.begun(next_chunk, 6, 10, 0) == Accept(5, next_chunk, 4)
    return machine


def task_of(machine: ReceiveMachine) -> Task:
    """Each call may find another one, unlike what a type checker takes a property for."""
    return machine.task


def test_a_transfer_from_offer_to_done() -> None:
    machine = machine_of(window_bytes=80)
    assert task_of(machine) is Task.NOTHING
    assert machine.receive(OFFER, 0) is None
    assert task_of(machine) is Task.BEGIN
    machine.begin()
    assert task_of(machine) is Task.NOTHING, "it is under way"
    assert machine.begun(0, 6, 10, 0) == Accept(5, 0, 8)
    for number in range(4):
        assert machine.receive(chunk(number), 0) is None
    assert [taken.number for taken in machine.take()] == [0, 1], "a quarter window"
    assert task_of(machine) is Task.NOTHING
    assert machine.wrote(2, 0) == Ack(5, 2)
    machine.receive(chunk(4), 0)
    machine.receive(chunk(5), 0)
    for first in (2, 4):
        assert [taken.number for taken in machine.take()] == [first, first + 1]
        assert machine.wrote(2, 0) == Ack(5, first + 2)
    assert task_of(machine) is Task.FINISH
    machine.finish()
    assert task_of(machine) is Task.NOTHING
    assert machine.finished() == Done(5, "ok", "")
    assert machine.outcome is not None
    assert machine.outcome.ending is Ending.FINISHED


def test_a_whole_snapshot_is_finished_at_once() -> None:
    assert receiving(next_chunk=6).task is Task.FINISH


@pytest.mark.parametrize(
    "message",
    [
        chunk(1), chunk(0, 11), chunk(0)._replace(transfer=6), OFFER, Ack(5, 0), Done(5, "ok", ""),
        Accept(5, 0, 1), Refuse(5, "busy", ""), Cancel(6, ""),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_an_error_of_the_peer(message: Message) -> None:
    with pytest.raises(ExpressError):
        receiving().receive(message, 0)


@pytest.mark.parametrize("message", [chunk(0), Cancel(5, ""), Ack(5, 1)])
def test_nothing_comes_before_the_offer(message: Message) -> None:
    with pytest.raises(ExpressError):
        machine_of().receive(message, 0)


def test_a_chunk_beyond_the_window_or_the_end_is_an_error_of_the_peer() -> None:
    machine = receiving()
    for number in range(4):
        machine.receive(chunk(number), 0)
    with pytest.raises(ExpressError, match="beyond the window"):
        machine.receive(chunk(4), 0)
    with pytest.raises(ExpressError, match="chunk 6 came"):
        receiving(next_chunk=6).receive(chunk(6), 0)


def test_a_damaged_chunk_is_never_written_and_ends_the_try() -> None:
    machine = receiving()
    answer = machine.receive(chunk(0)._replace(data=b"wrong"), 0)
    assert answer == Done(5, "checksum", "chunk 0 was damaged on the way")
    assert machine.task is Task.NOTHING
    assert machine.is_damaged
    assert machine.receive(chunk(0), 0) is None, "what was on its way is ignored"


@pytest.mark.parametrize(
    ("offer", "code"),
    [
        (OFFER._replace(sender=3), "other-peer"),
        (OFFER._replace(to=3), "other-peer"),
        (OFFER._replace(manifest=b"123456789"), "too-large"),
        (OFFER._replace(message=b"123456789"), "too-large"),
    ],
)
def test_an_offer_that_is_not_for_here_is_refused(offer: Offer, code: str) -> None:
    machine = machine_of()
    answer = machine.receive(offer, 0)
    assert isinstance(answer, Refuse)
    assert answer.code == code
    assert machine.outcome is not None
    assert machine.outcome.ending is Ending.REFUSED


@pytest.mark.parametrize(("count", "length", "code"), [(5, 10, "manifest"), (6, 21, "chunk-bytes")])
def test_a_manifest_that_does_not_fit_the_offer_is_refused(
    count: int, length: int, code: str
) -> None:
    machine = machine_of()
    machine.receive(OFFER, 0)
    machine.begin()
    answer = machine.begun(0, count, length, 0)
    assert isinstance(answer, Refuse)
    assert answer.code == code


def test_time_runs_only_while_the_sender_has_something_to_do() -> None:
    machine = machine_of()
    assert machine.deadline_seconds == 10
    machine.receive(OFFER, 5)
    assert machine.deadline_seconds is None
    machine.begin()
    assert machine.deadline_seconds is None
    machine.begun(0, 6, 10, 20)
    assert machine.deadline_seconds == 30
    machine.receive(chunk(0), 25)
    assert machine.deadline_seconds is None
    machine.take()
    machine.wrote(1, 40)
    assert machine.deadline_seconds == 50
    assert machine.expire(49) is None
    assert machine.expire(50) == Done(5, "timed-out", "the sender makes no progress")
    assert machine.outcome is not None
    assert machine.outcome.ending is Ending.TIMED_OUT


def test_after_the_end_nothing_is_said_any_more() -> None:
    machine = receiving()
    machine.receive(chunk(0), 0)
    machine.take()
    machine.lose("reset")
    assert machine.wrote(1, 0) is None
    assert machine.cancel("late") is None
    assert machine.fail("disk", "late") is None
    assert machine.refuse("refused", "late") is None
    assert machine.outcome is not None
    assert machine.outcome.ending is Ending.PEER_GONE


def test_cancel_from_both_sides() -> None:
    machine = receiving()
    assert machine.cancel("group\nremoved") == Cancel(5, "group removed")
    other = receiving()
    assert other.receive(Cancel(5, "newer"), 0) is None
    for ended in (machine, other):
        assert ended.outcome is not None
        assert ended.outcome.ending is Ending.CANCELLED
    assert machine_of().cancel("no offer yet") is None


def test_a_failure_is_a_refusal_before_chunks_flow_and_an_end_after() -> None:
    machine = machine_of()
    machine.receive(OFFER, 0)
    assert machine.fail("internal", "text") == Refuse(5, "internal", "text")
    assert receiving().fail("disk", "text") == Done(5, "disk", "text")
    assert machine_of().fail("disk", "text") is None
