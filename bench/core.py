"""`python -m bench.core`: the CPU time of the core alone, of a leader's replica in one process.

Measured is process time within the calls on the leader: `propose` or `propose_many`, `has_ready`,
`ready`, `storage_done`, `step` of the acknowledgements, `apply_done` and `tick`. Followers do not
exist: their answers are prepared beforehand. What the storage in memory costs is subtracted.

- A *round* is a proposal of one payload, or of 256 at once; the Ready with the appends to all
  followers; its completion by storage; the acknowledgement of every follower; the Ready with the
  committed entries; and their application. With eager commit the second Ready also carries an
  empty append to each follower, and the round includes the answers to those.
- *Idle groups* are leaders with three voters that nobody uses, at ten ticks a second and a
  heartbeat in each. The leader ticks, and takes the heartbeat responses. Asleep (quiesced) there
  are ticks alone.

Each figure is the median of several repetitions. The collector of garbage is set as in rafterd.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import statistics
import time
from collections.abc import Sequence
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from rafter_core import Config, Membership, MemoryStorage, Message, MessageKind, RawNode, Ready

REPETITIONS = 7
ENTRIES_PER_REPETITION = 3_000
ROUNDS_MIN = 30
PAYLOAD = bytes(64)
ROUND_TARGET_US = 60.0
"""For three voters and one entry."""

IDLE_GROUPS = 1_000
IDLE_TARGET_PERCENT = 1.0
"""Of a core, for that many groups asleep."""
TICKS_PER_SECOND = 10
ELECTION_TIMEOUT_TICKS = 10
QUIESCE_AFTER_TICKS = 20

GC_THRESHOLDS = (50_000, 20, 100)


class Shape(NamedTuple):
    """What one figure is about."""

    voters: int
    entries: int
    eager_commit: bool

    @property
    def key(self) -> str:
        """Return the name of the figure."""
        eager = "eager" if self.eager_commit else "lazy"
        return f"round {self.voters}x{self.entries} {eager}"


SHAPES = tuple(
    Shape(voters, entries, eager)
    for eager in (False, True)
    for voters in (3, 5)
    for entries in (1, 256)
)
IDLE_KEYS = {"idle awake": 0, "idle asleep": QUIESCE_AFTER_TICKS}
"""The figures of idle groups, each with its `quiesce_after_ticks`."""


class Leader:
    """A leader whose followers answer at once, and which knows what its storage was given."""

    def __init__(
        self, voters: int, *, eager_commit: bool = False, quiesce_after_ticks: int = 0
    ) -> None:
        self.followers = range(2, voters + 1)
        membership = Membership(tuple(range(1, voters + 1)))
        self.storage = MemoryStorage(membership)
        # Is given everything again, later, to see what that costs.
        self.second_storage = MemoryStorage(membership)
        config = Config(
            node_id=1,
            election_timeout_ticks=ELECTION_TIMEOUT_TICKS,
            eager_commit=eager_commit,
            quiesce_after_ticks=quiesce_after_ticks,
        )
        self.node = RawNode(config, self.storage, random.Random(1))
        self.stored: list[Ready] = []
        self.node.campaign()
        self.settle()
        assert self.node.is_leader
        assert self.node.commit == self.node.last_index

    def settle(self) -> int:
        """Do all work there is, with the answers of the followers; return how many there were."""
        count = 0
        while messages := self.turn():
            for message in messages:
                answer = answer_to(message)
                if answer is not None:
                    self.node.step(answer)
                    count += 1
        return count

    def turn(self) -> list[Message]:
        """Do the driver's duties until there is no more work."""
        node, storage = self.node, self.storage
        messages: list[Message] = []
        while node.has_ready():
            ready = node.ready()
            storage.store(ready)
            node.storage_done(ready)
            self.stored.append(ready)
            messages += ready.messages
            messages += ready.messages_after_sync
            if ready.committed:
                node.apply_done(ready.committed[-1].index)
        return messages

    def acknowledgements(self, entries: int, rounds: int) -> list[list[Message]]:
        """Return the answers of the followers to the next rounds."""
        last = self.node.last_index
        return [
            [
                self.answer(MessageKind.APPEND_RESPONSE, follower, last + number * entries)
                for follower in self.followers
            ]
            for number in range(1, rounds + 1)
        ]

    def answer(self, kind: MessageKind, follower: int, index: int = 0) -> Message:
        """Return a follower's answer in the leader's term."""
        return Message(kind=kind, to=1, sender=follower, term=self.node.term, index=index)

    def store_again(self) -> int:
        """Return what it costs in nanoseconds to store what was stored since the last call."""
        store = self.second_storage.store
        started = time.process_time_ns()
        for ready in self.stored:
            store(ready)
        used = time.process_time_ns() - started
        self.stored.clear()
        for storage in (self.storage, self.second_storage):
            storage.compact(self.node.applied - 1)
        return used


ANSWERS = {
    MessageKind.PRE_VOTE: MessageKind.PRE_VOTE_RESPONSE,
    MessageKind.VOTE: MessageKind.VOTE_RESPONSE,
    MessageKind.APPEND: MessageKind.APPEND_RESPONSE,
    MessageKind.HEARTBEAT: MessageKind.HEARTBEAT_RESPONSE,
}


def answer_to(message: Message) -> Message | None:
    """Return what a follower answers that agrees with everything, None if nothing."""
    kind = ANSWERS.get(message.kind)
    if kind is None:
        return None
    index = message.index + len(message.entries) if kind is MessageKind.APPEND_RESPONSE else 0
    return Message(
        kind=kind,
        to=message.sender,
        sender=message.to,
        term=message.term,
        index=index,
        context=message.context if kind is MessageKind.HEARTBEAT_RESPONSE else b"",
    )


def measure_round(shape: Shape, repetitions: int = REPETITIONS, rounds: int = 0) -> float:
    """Return the leader's CPU time for one round in microseconds."""
    leader = Leader(shape.voters, eager_commit=shape.eager_commit)
    rounds = rounds or max(ROUNDS_MIN, ENTRIES_PER_REPETITION // shape.entries)
    payloads = [PAYLOAD] * shape.entries
    _expect_answers(leader, payloads, len(leader.followers) * (1 + shape.eager_commit))
    leader.store_again()
    figures = []
    for _ in range(repetitions):
        acknowledgements = leader.acknowledgements(shape.entries, rounds)
        gc.collect()
        started = time.process_time_ns()
        _run_rounds(leader, payloads, acknowledgements, eager_commit=shape.eager_commit)
        used = time.process_time_ns() - started
        assert leader.node.applied == acknowledgements[-1][0].index
        figures.append((used - leader.store_again()) / rounds / 1e3)
    return statistics.median(figures)


def _expect_answers(leader: Leader, payloads: list[bytes], answers: int) -> None:
    """Do one round with real answers, to know that the prepared ones are what there would be."""
    leader.node.propose_many(payloads)
    found = leader.settle()
    assert found == answers, f"a round has {found} answers, {answers} are prepared"


def _run_rounds(
    leader: Leader,
    payloads: list[bytes],
    acknowledgements: list[list[Message]],
    *,
    eager_commit: bool,
) -> None:
    node = leader.node
    turn = leader.turn
    is_single = len(payloads) == 1
    for answers in acknowledgements:
        if is_single:
            node.propose(payloads[0])
        else:
            node.propose_many(payloads)
        turn()
        for answer in answers:
            node.step(answer)
        turn()
        if eager_commit:
            for answer in answers:
                node.step(answer)
            turn()


def measure_idle(quiesce_after_ticks: int, groups: int = IDLE_GROUPS, seconds: int = 2) -> float:
    """Return what idle groups cost their leaders, in percent of a core."""
    leaders = [Leader(3, quiesce_after_ticks=quiesce_after_ticks) for _ in range(groups)]
    for leader in leaders:
        for _ in range(quiesce_after_ticks + 2 * ELECTION_TIMEOUT_TICKS):
            leader.node.tick()
            leader.settle()
        is_asleep = leader.node.is_quiesced
        assert is_asleep is bool(quiesce_after_ticks), f"asleep: {is_asleep}"
        leader.stored.clear()
    answers = [leaders[0].answer(MessageKind.HEARTBEAT_RESPONSE, follower) for follower in (2, 3)]
    assert len({leader.node.term for leader in leaders}) == 1
    nodes = [leader.node for leader in leaders]
    figures = []
    gc.collect()
    for _ in range(seconds * TICKS_PER_SECOND):
        started = time.process_time_ns()
        _tick_all(nodes, answers)
        figures.append(time.process_time_ns() - started)
    assert all(node.is_leader for node in nodes)
    # Nanoseconds for each tick of all groups, of which there are so many in a second.
    return statistics.median(figures) * TICKS_PER_SECOND / 1e9 * 100


def _tick_all(nodes: Sequence[RawNode], answers: list[Message]) -> None:
    for node in nodes:
        node.tick()
        if node.has_ready():
            node.storage_done(node.ready())
            for answer in answers:
                node.step(answer)


def measure() -> dict[str, float]:
    """Return all figures: rounds in microseconds, idle groups in percent."""
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    figures = {shape.key: measure_round(shape) for shape in SHAPES}
    return figures | {key: measure_idle(ticks) for key, ticks in IDLE_KEYS.items()}


def tables(interpreted: dict[str, float], compiled: dict[str, float]) -> list[Table]:
    """Return the figures for people. `compiled` may be empty."""
    rounds = Table(
        title="One round of the leader, CPU µs",
        caption=f"{len(PAYLOAD)}-byte payloads; goal: <= {ROUND_TARGET_US:.0f} µs for "
        "3 voters and 1 entry",
    )
    for column in ("voters", "entries", "eager commit", "a round", "an entry", "compiled", "ratio"):
        rounds.add_column(column, justify="right")
    for shape in SHAPES:
        used = interpreted[shape.key]
        rounds.add_row(
            str(shape.voters),
            str(shape.entries),
            "yes" if shape.eager_commit else "no",
            f"{used:.1f}",
            f"{used / shape.entries:.2f}",
            *_compared(used, compiled.get(shape.key), "{:.1f}"),
        )
    idle = Table(
        title=f"{IDLE_GROUPS:,} idle groups led here, % of a core",
        caption=f"{TICKS_PER_SECOND} ticks a second; goal: <= {IDLE_TARGET_PERCENT:.0f} % asleep",
    )
    for column in ("", "% of a core", "compiled", "ratio"):
        idle.add_column(column, justify="right")
    for key in IDLE_KEYS:
        used = interpreted[key]
        idle.add_row(key, f"{used:.2f}", *_compared(used, compiled.get(key), "{:.2f}"))
    return [rounds, idle]


def _compared(interpreted: float, compiled: float | None, form: str) -> tuple[str, str]:
    if compiled is None:
        return "-", "-"
    return form.format(compiled), f"{interpreted / compiled:.1f}x"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.core")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON alone")
    parser.add_argument(
        "--interpreted-only", action="store_true", help="do not try the core compiled by mypyc"
    )
    arguments = parser.parse_args()
    interpreted = measure()
    if arguments.json:
        print(json.dumps(interpreted))
        return
    compiled: dict[str, float] = {}
    reason = ""
    if not arguments.interpreted_only:
        from bench import core_compiled

        try:
            compiled = core_compiled.measure()
        except core_compiled.NotCompiled as error:
            reason = str(error)
    console = Console()
    for table in tables(interpreted, compiled):
        console.print(table)
    if reason:
        console.print(f"The compiled core was not measured: {reason}", markup=False)


if __name__ == "__main__":
    main()
