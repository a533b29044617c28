"""RAFTER.REPLACE from the shard that is asked to the leader of the system group, and back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from rafter_kv.connection import RespConnection
from rafter_kv.reply_slot import ReplySlot
from rafter_transport import Channel
from rafter_transport.payload import pack_item, unpack
from rafterd.cluster_map import NodeRecord, Phase, Progress
from rafterd.map_messages import Asked, Publication, ReplaceAnswer, message_from_wire
from rafterd.map_requests import ATTEMPTS, REQUESTS_MAX, MapRequests
from rafterd.shared import SharedState
from rafterd.system_group import SystemGroup
from tests.kv.fake_front_end import FakeFrontEnd

NODES = [NodeRecord(node, 10 * node, "h", 5) for node in (1, 2, 3)]


class System:
    """The leader's service; what it is to answer is up to the test."""

    def __init__(self) -> None:
        self.refusal: str | None = None
        self.asked: list[tuple[int, int]] = []
        self.answers: list[Callable[[str | None], None]] = []
        self.reports: list[Progress] = []

    def replace(
        self, node: int, incarnation: int, on_applied: Callable[[str | None], None]
    ) -> str | None:
        self.asked.append((node, incarnation))
        self.answers.append(on_applied)
        return self.refusal

    def report(self, progress: Progress) -> None:
        self.reports.append(progress)


class Bench:
    """One shard of node 1."""

    def __init__(self, shard: int = 0, leader: int = 1) -> None:
        self.shared = SharedState(2, 1)
        self.shared.set_route(0, leader, 1)
        self.posted: list[tuple[int, int, Any]] = []
        self.has_links = True
        self.timers: list[Callable[[], None]] = []
        self.scheduled = 0
        self.requests = MapRequests(
            node=1,
            shard=shard,
            shared=self.shared,
            sender=self,
            call_later=lambda _, action, *arguments: self.timers.append(lambda: action(*arguments)),
            schedule=self._schedule,
            publication=lambda: Publication(1, NODES),
        )

    def _schedule(self) -> None:
        self.scheduled += 1

    def post(self, node: int, shard: int, channel: Channel, item: object) -> bool:
        assert channel is Channel.CLUSTER_MAP
        if self.has_links:
            self.posted.append((node, shard, message_from_wire(unpack(pack_item(item)))))
        return self.has_links

    def lead(self) -> System:
        system = System()
        self.requests.system = cast("SystemGroup", system)
        return system

    def ask(self, node: int = 2) -> ReplySlot:
        slot = ReplySlot(RespConnection(FakeFrontEnd()), 1, 0)
        self.requests.replace(node, slot, 0)
        return slot

    def pass_time(self) -> None:
        timers, self.timers = self.timers, []
        for timer in timers:
            timer()


def test_where_the_leader_is_the_question_goes_no_further() -> None:
    bench = Bench()
    system = bench.lead()
    slot = bench.ask()
    assert system.asked == [(2, 20)]
    assert slot.waiting == 1
    system.answers[0](None)
    assert slot.replies == ["+OK"]
    assert bench.posted == []
    assert bench.scheduled


def test_a_refusal_is_an_error_at_once() -> None:
    bench = Bench()
    bench.lead().refusal = "node 2 is up"
    assert bench.ask().replies == ["-ERR node 2 is up"]
    assert bench.ask(9).replies == ["-ERR node 9 is not in the cluster's map"]


def test_from_elsewhere_the_question_goes_to_the_leaders_shard_0_and_the_answer_back() -> None:
    asking, leading = Bench(shard=1, leader=3), Bench()
    system = leading.lead()
    slot = asking.ask()
    ((node, shard, question),) = asking.posted
    number = question.number
    assert (node, shard, question) == (3, 0, Asked(number, 2, 20))
    leading.requests.receive(2, 1, question)
    system.answers[0]("no")
    assert leading.posted == [(2, 1, ReplaceAnswer(number, "no"))]
    asking.requests.receive(3, 0, leading.posted[0][2])
    assert slot.replies == ["-ERR no"]
    asking.requests.receive(3, 0, ReplaceAnswer(number, None))  # the answer to a repetition


def test_a_sister_of_the_leader_asks_it_over_their_link() -> None:
    bench = Bench(shard=1, leader=1)
    bench.ask()
    ((node, shard, question),) = bench.posted
    assert (node, shard, question.node) == (1, 0, 2)


def test_the_question_is_repeated_to_whoever_leads_until_the_time_is_up() -> None:
    bench = Bench(leader=0)
    slot = bench.ask()
    assert bench.posted == []
    bench.shared.set_route(0, 3, 2)
    bench.pass_time()
    bench.shared.set_route(0, 2, 3)
    bench.has_links = False
    bench.pass_time()
    bench.has_links = True
    for _ in range(ATTEMPTS):
        bench.pass_time()
    assert [(node, shard) for node, shard, _ in bench.posted] == [(3, 0)] + [(2, 0)] * (
        ATTEMPTS - 3
    )
    (reply,) = slot.replies
    assert str(reply).startswith("-TIMEOUT ")
    assert bench.timers == []


def test_an_answer_ends_the_repetitions() -> None:
    bench = Bench(leader=3)
    slot = bench.ask()
    ((_, _, question),) = bench.posted
    bench.requests.receive(3, 0, ReplaceAnswer(question.number - 1, None))
    assert slot.waiting == 1, "that was for a process before this one"
    bench.requests.receive(3, 0, ReplaceAnswer(question.number, None))
    assert slot.replies == ["+OK"]
    bench.pass_time()
    assert len(bench.posted) == 1
    assert bench.timers == []


def test_questions_are_bounded() -> None:
    bench = Bench(leader=3)
    for _ in range(REQUESTS_MAX):
        assert bench.ask().waiting == 1
    (reply,) = bench.ask().replies
    assert str(reply).startswith("-BUSY ")


def test_reports_reach_the_system_group_where_it_is() -> None:
    report = Progress(2, 20, Phase.LEAVING, [1])
    away = Bench(shard=1, leader=3)
    away.requests.to_leader(report)
    assert away.posted == [(3, 0, report)]
    here = Bench()
    here.requests.to_leader(report)  # before there is one: it comes again
    system = here.lead()
    here.requests.to_leader(report)
    here.requests.receive(2, 0, report)
    assert system.reports == [report, report]
