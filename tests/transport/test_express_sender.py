"""The sending machine in virtual time."""

import pytest

from rafter_transport.express_messages import (
    Accept,
    Ack,
    Cancel,
    Done,
    ExpressError,
    Message,
    Offer,
    Refuse,
)
from rafter_transport.express_sender import Ending, Outcome, SendMachine

OFFER = Offer(5, 7, 1, 2, 10, b"", b"")


def machine_of(chunk_count: int = 10, window_chunks: int = 3) -> SendMachine:
    return SendMachine(
        OFFER._replace(chunk_count=chunk_count), window_chunks=window_chunks,
        progress_seconds=10, finish_seconds=100, now_seconds=0,
    )  # fmt: skip


def send_all(machine: SendMachine, now_seconds: float = 0) -> list[int]:
    sent = []
    while (number := machine.next_to_send) is not None:
        machine.sent(number, now_seconds)
        sent.append(number)
    return sent


def accepted(next_chunk: int = 0, window_chunks: int = 99, count: int = 10) -> SendMachine:
    machine = machine_of(count)
    machine.receive(Accept(5, next_chunk, window_chunks), 0)
    return machine


def test_nothing_is_sent_before_the_offer_is_accepted() -> None:
    machine = machine_of()
    assert machine.next_to_read is None
    assert machine.next_to_send is None


def test_the_smaller_window_holds_and_opens_with_each_ack() -> None:
    machine = accepted(window_chunks=2)
    assert send_all(machine) == [0, 1]
    assert machine.next_to_read == 2, "it may be read ahead"
    machine.receive(Ack(5, 1), 0)
    assert send_all(machine) == [2]
    machine.receive(Ack(5, 3), 0)
    assert send_all(machine) == [3, 4]
    assert send_all(accepted()) == [0, 1, 2]


def test_a_resumed_transfer_begins_where_the_receiver_is() -> None:
    machine = accepted(next_chunk=8)
    assert machine.resumed_at == 8
    assert send_all(machine) == [8, 9]
    whole = accepted(next_chunk=10)
    assert whole.next_to_read is None
    whole.receive(Done(5, "ok", ""), 0)
    assert whole.outcome == Outcome(Ending.FINISHED, "")
    assert whole.outcome.reason == ""


def test_an_empty_snapshot_is_done_after_the_accept() -> None:
    machine = accepted(count=0)
    assert machine.deadline_seconds == 100
    machine.receive(Done(5, "ok", ""), 1)
    assert machine.outcome == Outcome(Ending.FINISHED, "")


@pytest.mark.parametrize(
    ("message", "ending", "is_retried"),
    [
        (Refuse(5, "busy", "t"), Ending.REFUSED, True),
        (Refuse(5, "refused", "t"), Ending.REFUSED, False),
        (Cancel(5, "t"), Ending.CANCELLED, False),
    ],
)
def test_how_an_offer_may_be_answered(message: Message, ending: Ending, is_retried: bool) -> None:
    machine = machine_of()
    machine.receive(message, 0)
    assert machine.outcome is not None
    assert (machine.outcome.ending, machine.outcome.is_retried) == (ending, is_retried)


@pytest.mark.parametrize(("code", "is_retried"), [("checksum", True), ("disk-full", False)])
def test_an_end_other_than_ok_is_a_failure(code: str, is_retried: bool) -> None:
    machine = accepted()
    machine.receive(Done(5, code, "text"), 0)
    assert machine.outcome == Outcome(Ending.FAILED, "text", is_retried)
    assert machine.outcome.reason == "failed: text"


@pytest.mark.parametrize(
    "message",
    [
        Ack(5, 0), Ack(5, 4), Ack(6, 1), Accept(5, 0, 1), Refuse(5, "busy", ""),
        Done(5, "ok", ""), OFFER,
    ],
)  # fmt: skip
def test_what_makes_no_sense_while_sending_is_an_error_of_the_peer(message: Message) -> None:
    machine = accepted()
    assert send_all(machine) == [0, 1, 2]
    with pytest.raises(ExpressError):
        machine.receive(message, 0)


@pytest.mark.parametrize("message", [Ack(5, 1), Done(5, "ok", ""), Accept(5, 11, 1)])
def test_what_makes_no_sense_as_an_answer_is_an_error_of_the_peer(message: Message) -> None:
    with pytest.raises(ExpressError):
        machine_of().receive(message, 0)


def test_time_runs_only_while_the_receiver_has_something_to_do() -> None:
    machine = machine_of()
    assert machine.deadline_seconds == 10
    machine.receive(Accept(5, 0, 3), 4)
    assert machine.deadline_seconds is None, "this side is to send"
    machine.sent(0, 50)
    assert machine.deadline_seconds == 60
    machine.sent(1, 55)
    assert machine.deadline_seconds == 60, "to send is no progress"
    machine.receive(Ack(5, 1), 58)
    assert machine.deadline_seconds == 68
    machine.expire(67.9)
    assert machine.outcome is None
    machine.expire(68)
    assert machine.outcome is not None
    assert (machine.outcome.ending, machine.outcome.is_retried) == (Ending.TIMED_OUT, True)
    assert machine.deadline_seconds is None


def test_the_first_outcome_stays() -> None:
    machine = accepted()
    assert machine.cancel("enough") == Cancel(5, "enough")
    assert machine.cancel("again") is None
    machine.lose("reset")
    machine.fail("late")
    machine.receive(Done(6, "ok", ""), 0)
    machine.expire(1e9)
    assert machine.outcome == Outcome(Ending.CANCELLED, "enough")
    assert machine.next_to_read is None
