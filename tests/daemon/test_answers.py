from collections.abc import Sequence
from typing import Any

from rafter_transport.exchanger import Channel
from rafterd.answers import NO_ROOM, WAITING_MAX, Answers
from rafterd.requests import RESULTS_BYTES_PER_ITEM, Reply, Status, decode_reply


class Links:
    """Links that are up or not, and refuse items over a number of results."""

    def __init__(self) -> None:
        self.up: set[tuple[int, int]] = set()
        self.result_bytes_max = 1 << 30
        self.posted: list[tuple[int, int, Reply]] = []

    def post(self, node: int, shard: int, channel: Channel, item: Any) -> bool:
        assert channel is Channel.REPLY
        size = sum(len(result) for result in item[4] if type(result) is bytes)
        if (node, shard) not in self.up or size > self.result_bytes_max:
            return False
        self.posted.append((node, shard, decode_reply(item)))
        return True

    def flush(self) -> None:
        raise AssertionError("answers leave with the engine's flush")

    def is_up(self, node: int, shard: int) -> bool:
        return (node, shard) in self.up


def _reply(ticket: int, results: Sequence[object]) -> Reply:
    return Reply(
        ticket=ticket,
        attempt=1,
        status=Status.DONE,
        start=0,
        results=list(results),
        is_last=True,
        leader=1,
        term=2,
    )


def test_an_answer_waits_until_the_link_it_dials_is_up() -> None:
    links = Links()
    answers = Answers(links)
    answers.send(2, 1, _reply(7, [b"value"]))
    assert links.posted == []
    links.up.add((2, 1))
    answers.link_changed(2, 1, is_up=True)
    assert links.posted == [(2, 1, _reply(7, [b"value"]))]


def test_an_answer_is_sent_once() -> None:
    links = Links()
    answers = Answers(links)
    answers.send(2, 1, _reply(7, [b"value"]))
    links.up.add((2, 1))
    answers.link_changed(2, 1, is_up=True)
    answers.link_changed(2, 1, is_up=True)
    assert len(links.posted) == 1


def test_answers_that_wait_for_a_link_that_broke_are_forgotten() -> None:
    links = Links()
    answers = Answers(links)
    answers.send(2, 1, _reply(7, [b"value"]))
    answers.link_changed(2, 1, is_up=False)
    links.up.add((2, 1))
    answers.link_changed(2, 1, is_up=True)
    assert links.posted == []


def test_answers_that_wait_are_bounded() -> None:
    links = Links()
    answers = Answers(links)
    for ticket in range(WAITING_MAX + 10):
        answers.send(2, 1, _reply(ticket, [1]))
    links.up.add((2, 1))
    answers.link_changed(2, 1, is_up=True)
    assert len(links.posted) == WAITING_MAX


def test_a_result_that_no_frame_can_hold_becomes_an_error_in_its_place() -> None:
    links = Links()
    links.up.add((2, 1))
    links.result_bytes_max = RESULTS_BYTES_PER_ITEM
    answers = Answers(links)
    large = b"x" * (RESULTS_BYTES_PER_ITEM + 1)
    answers.send(2, 1, _reply(7, [b"before", large, b"after"]))
    results = [result for _, _, reply in links.posted for result in reply.results]
    assert results == [b"before", NO_ROOM, b"after"]
    assert [reply.is_last for _, _, reply in links.posted] == [False, False, True]
