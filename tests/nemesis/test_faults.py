"""The bookkeeping of faults: they are done in turn, taken back, and their errors told."""

import contextlib
import itertools
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.nemesis import faults
from tests.nemesis.faults import FAULT_OF_NAME, FaultRecord, Nemesis, why_impossible
from tests.nemesis.plan import FAULTS, Event, Plan, Shape


class FakeNode:
    def __init__(self, node: int, *, is_running: bool = True) -> None:
        self.node = node
        self.is_running = is_running
        self.done: list[str] = []

    def kill(self) -> None:
        self.done.append("kill")
        self.is_running = False

    def start(self) -> None:
        self.done.append("start")
        self.is_running = True


class FakeGround:
    """Nodes without processes, and a lock for all of them."""

    def __init__(self, *nodes: FakeNode) -> None:
        self.cluster = {node.node: node for node in nodes}
        self.numbers = list(self.cluster)
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def holding(self, nodes: tuple[int, ...]) -> Iterator[list[FakeNode]]:
        if not nodes:
            yield []
            return
        with self._lock:
            yield [self.cluster[node] for node in nodes]


def run(ground: Any, *events: Event, seconds: float = 30.0) -> list[FaultRecord]:
    """Run events to their end."""
    plan = Plan(1, 0, seconds, Shape(3, 1, 2, 3), ("kill",), events, 0)
    with Nemesis(ground, plan) as nemesis:
        nemesis.start()
        nemesis.finish()
    return nemesis.records


def test_every_fault_that_is_planned_can_be_done() -> None:
    assert set(FAULT_OF_NAME) == set(FAULTS)
    for fault in FAULTS:
        assert isinstance(why_impossible(fault), str)
    assert not why_impossible("kill")


def test_a_killed_node_is_started_again_and_the_fault_has_begun_and_ended() -> None:
    node = FakeNode(1)
    (record,) = run(FakeGround(node), Event(0.0, 0.01, "kill", (1,), 0))
    assert node.done == ["kill", "start"]
    assert record.fault == "kill"
    assert record.nodes == (1,)
    assert record.ended - record.begun >= 0.01e9
    assert not record.error


def test_a_fault_that_fails_is_told_and_the_next_one_is_done() -> None:
    class Stubborn(FakeNode):
        def kill(self) -> None:
            raise OSError("no such process")

    ground = FakeGround(Stubborn(1), FakeNode(2))
    records = run(ground, Event(0.0, 0.0, "kill", (1,), 0), Event(0.01, 0.0, "kill", (2,), 0))
    errors = {record.nodes: record.error for record in records}
    assert errors == {(1,): "OSError: no such process", (2,): ""}


def test_no_two_faults_have_a_node_at_the_same_time() -> None:
    ground = FakeGround(FakeNode(1))
    records = run(ground, *(Event(0.0, 0.01, "kill", (1,), number) for number in range(3)))
    records.sort(key=lambda record: record.begun)
    assert len(records) == 3
    for one, other in itertools.pairwise(records):
        assert one.ended <= other.begun


def test_a_fault_that_comes_too_late_is_left_out() -> None:
    ground = FakeGround(FakeNode(1))
    first = Event(0.0, 0.2, "kill", (1,), 0)
    records = run(ground, first, Event(0.1, 0.0, "kill", (1,), 0), seconds=0.15)
    assert [record.nodes for record in records] == [(1,)]
    assert len(records) == 1


def test_a_node_that_has_ended_by_itself_is_started_in_the_end() -> None:
    node = FakeNode(2, is_running=False)
    (record,) = run(FakeGround(node))
    assert node.is_running
    assert record.notes == ["node 2 had ended and is started again"]


def test_faults_that_are_given_up_are_taken_back_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, over = threading.Event(), threading.Event()

    @contextlib.contextmanager
    def endless(*_: object) -> Iterator[None]:
        begun.set()
        yield
        over.set()

    monkeypatch.setitem(faults.FAULT_OF_NAME, "kill", endless)
    event = Event(0.0, 1000.0, "kill", (1,), 0)
    plan = Plan(1, 0, 2000.0, Shape(3, 1, 2, 3), ("kill",), (event,), 0)
    ground: Any = FakeGround(FakeNode(1))
    with Nemesis(ground, plan) as nemesis:
        nemesis.start()
        assert begun.wait(10)
    assert over.is_set()
