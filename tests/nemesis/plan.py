"""What a round does: a pure function of the seed, the number of the round, and a few choices.

A plan says which cluster there is, and which faults begin when, where and for how long. Real
processes keep no exact time, so the same plan is no exact repetition, but the same test.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import NamedTuple

NODE_FAULTS = ("kill", "kill-shard", "pause", "pause-shard", "wake-alone", "sync", "move", "roll")
"""What is done to the processes of nodes; a node suffers one of these at a time."""
NETWORK_FAULTS = ("partition", "one-way")
FAULTS = (*NODE_FAULTS, *NETWORK_FAULTS, "disk")

SECONDS_OF_FAULT = {
    "kill": (0.2, 6.0),
    "kill-shard": (0.5, 2.0),
    "pause": (0.5, 5.0),
    "pause-shard": (0.5, 13.0),  # longer than the watchdog of a node has patience
    "wake-alone": (1.5, 3.5),  # longer than it takes the others to elect a leader
    "sync": (1.0, 4.0),
    "move": (0.1, 1.0),
    "roll": (0.1, 0.5),
    "partition": (2.0, 9.0),
    "one-way": (2.0, 9.0),
    "disk": (4.0, 14.0),
}
"""How long a fault lasts: at least and at most. Restarts come on top."""

ALONE_SECONDS = 1.5
"""How long a node that wakes alone remains so."""
RESTART_SECONDS = {"kill": 2.0, "move": 5.0, "roll": 3.0, "wake-alone": ALONE_SECONDS}
"""What comes on top until a node, or for a roll each node, is back."""

CALM_SECONDS = 3.0
"""Nothing happens for so long in the beginning, and again in the end, of a round."""
PAUSE_SECONDS = (1.0, 6.0)
"""Between the end of a fault and the next one of its track."""
TRACKS_OF_MIX = 2
MIX_SIZE = (3, 5)


class Shape(NamedTuple):
    """A cluster. `shards` are those of each node."""

    nodes: int
    shards: int
    groups: int
    replication: int

    def __str__(self) -> str:
        return (
            f"{self.nodes} nodes of {self.shards} shards, {self.groups} groups of "
            f"{self.replication} replicas"
        )


class Event(NamedTuple):
    """One fault: when it begins, counted from the first operation, and for how long it lasts.

    `nodes` are those it strikes. A partition parts them from all others; a one-way cut keeps what
    the first of them says from the others of them. `choice` is a number for what must be chosen
    once the fault begins, as which shard, or whose leader.
    """

    at_seconds: float
    seconds: float
    fault: str
    nodes: tuple[int, ...]
    choice: int

    def __str__(self) -> str:
        nodes = ",".join(map(str, self.nodes))
        return f"{self.at_seconds:5.1f} s: {self.fault} {nodes} for {self.seconds:.1f} s"


class Plan(NamedTuple):
    """A round. `small_disk` is the node whose disk can be filled, 0 if there is none."""

    seed: int
    number: int
    seconds: float
    shape: Shape
    faults: tuple[str, ...]
    events: tuple[Event, ...]
    small_disk: int

    @property
    def name(self) -> str:
        """A name for its files."""
        return f"round-{self.number:03}"

    def __str__(self) -> str:
        lines = [f"seed {self.seed}, round {self.number}, {self.seconds:.0f} s: {self.shape}"]
        return "\n".join([*lines, *(f"  {event}" for event in self.events)])


def plan_round(
    seed: int,
    number: int,
    *,
    seconds: float | None = None,
    nodes: int | None = None,
    faults: Sequence[str] = FAULTS,
) -> Plan:
    """Draw a round. Of two rounds one has a single fault, in turn, and the other a mix.

    Raises ValueError if a fault is none of `FAULTS`, or there are no faults.
    """
    if not faults or (unknown := set(faults) - set(FAULTS)):
        raise ValueError(f"no such faults: {', '.join(sorted(unknown)) if faults else 'none'}")
    generator = random.Random(f"{seed}/{number}")
    if seconds is None:
        seconds = float(generator.randint(60, 90))
    shape = _draw_shape(generator, nodes)
    is_alone = number % 2 == 1 or len(faults) == 1
    if is_alone:
        # Another seed begins with another fault: short runs would never come to the last ones.
        chosen: tuple[str, ...] = (faults[(seed + number // 2) % len(faults)],)
    else:
        size = min(len(faults), generator.randint(*MIX_SIZE))
        chosen = tuple(sorted(generator.sample(list(faults), size)))
    small_disk = generator.randint(1, shape.nodes) if "disk" in chosen else 0
    draft = _Draft(generator, shape, chosen, seconds, small_disk)
    for _ in range(1 if is_alone else TRACKS_OF_MIX):
        draft.add_track()
    events = tuple(sorted(draft.events))
    return Plan(seed, number, seconds, shape, chosen, events, small_disk)


def _draw_shape(generator: random.Random, nodes: int | None) -> Shape:
    nodes = nodes or generator.choice((3, 3, 5))
    shards = generator.choice((1, 2)) if nodes == 3 else 1
    replication = nodes if nodes == 3 else generator.choice((3, 5))
    return Shape(nodes, shards, generator.randint(2, 6), replication)


class _Draft:
    """The events of a round that is being drawn: no two strike the same thing at once."""

    def __init__(
        self,
        generator: random.Random,
        shape: Shape,
        faults: tuple[str, ...],
        seconds: float,
        small_disk: int,
    ) -> None:
        self.events: list[Event] = []
        self._generator = generator
        self._shape = shape
        self._faults = faults
        self._end = seconds - CALM_SECONDS
        self._small_disk = small_disk

    def add_track(self) -> None:
        """Draw one fault after the other until the time is up."""
        generator = self._generator
        at = CALM_SECONDS + generator.uniform(0.0, 1.0)
        while True:
            fault = generator.choice(self._faults)
            seconds = round(generator.uniform(*SECONDS_OF_FAULT[fault]), 1)
            nodes = self._draw_nodes(fault)
            event = Event(round(at, 1), seconds, fault, nodes, generator.randrange(1 << 16))
            if at + seconds > self._end:
                return
            at += 0.5
            if not any(_clash(event, other) for other in self.events):
                self.events.append(event)
                at = _end(event) + generator.uniform(*PAUSE_SECONDS)

    def _draw_nodes(self, fault: str) -> tuple[int, ...]:
        generator, nodes = self._generator, list(range(1, self._shape.nodes + 1))
        if fault == "disk":
            return (self._small_disk,)
        if fault in {"move", "roll"}:
            return tuple(generator.sample(nodes, len(nodes)))
        if fault == "one-way":
            return tuple(generator.sample(nodes, generator.randint(2, len(nodes))))
        # Mostly a minority, which the cluster has to bear; else as many as it likes.
        few = (len(nodes) - 1) // 2
        many = len(nodes) - 1 if fault == "partition" else len(nodes)
        most = few if generator.random() < 0.7 else many
        return tuple(sorted(generator.sample(nodes, generator.randint(1, most))))


def _end(event: Event) -> float:
    """Return when an event is over, restarts included."""
    restarts = len(event.nodes) if event.fault == "roll" else 1
    return event.at_seconds + (event.seconds + RESTART_SECONDS.get(event.fault, 0.0)) * restarts


def _clash(one: Event, other: Event) -> bool:
    """Tell whether two events strike the same thing at the same time."""
    is_beside = one.at_seconds < _end(other) and other.at_seconds < _end(one)
    return is_beside and _sort(one) == _sort(other) and bool({*one.nodes} & {*other.nodes})


def _sort(event: Event) -> str:
    return "network" if event.fault in NETWORK_FAULTS else event.fault * (event.fault == "disk")
