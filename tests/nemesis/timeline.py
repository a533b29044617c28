"""The picture of a round: an SVG with faults, leaders, throughput, and a row for each client.

Everything is placed by time. What is short is drawn at least a pixel wide. Hover texts are SVG
titles, so the picture needs no program; the operations are too many for that, and lie on a canvas
that `page` puts below.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from html import escape
from typing import NamedTuple

from tests.linear.history import Operation, Outcome
from tests.nemesis.faults import FaultRecord
from tests.nemesis.status import Led

NANOSECONDS = 1_000_000_000
LEFT = 150
"""The pixels for the names of rows; the time begins there."""
PIXELS_PER_SECOND = 18
ROW = 18
GAP = 14
STRIP = 70
"""The height of the strips of throughput and latency."""
NODE_COLOURS = ("#4c78a8", "#f58518", "#54a24b", "#b279a2", "#9d755d")
NOBODY_COLOUR = "#e0e0e0"
FAULT_COLOURS = {
    "kill": "#d62728",
    "kill-shard": "#e45756",
    "pause": "#7f7fbf",
    "pause-shard": "#a5a5d8",
    "wake-alone": "#6b4ea0",
    "sync": "#8c564b",
    "disk": "#c49c94",
    "move": "#17becf",
    "roll": "#2ca02c",
    "partition": "#ff7f0e",
    "one-way": "#ffbb78",
}
OUTCOME_COLOURS = {Outcome.OK: "#59a14f", Outcome.UNKNOWN: "#e15759", Outcome.FAILED: "#edc948"}


class Span(NamedTuple):
    """A stretch of a row, in nanoseconds since the beginning."""

    begun: int
    ended: int
    text: str
    colour: str


class Row(NamedTuple):
    """A name and what stands beside it."""

    name: str
    spans: list[Span]


def fault_rows(faults: Sequence[FaultRecord], nodes: int, begun: int, ended: int) -> list[Row]:
    """Return a row for each node, with the faults that struck it."""
    rows = []
    for node in range(1, nodes + 1):
        spans = []
        for fault in faults:
            if node in fault.nodes:
                text = f"{fault.fault} of {', '.join(map(str, fault.nodes))}"
                notes = "".join(f"; {note}" for note in (*fault.notes, fault.error) if note)
                colour = FAULT_COLOURS.get(fault.fault, "#777777")
                first, last = fault.spans.get(node, (fault.begun, fault.ended or ended))
                spans.append(Span(first - begun, last - begun, text + notes, colour))
        rows.append(Row(f"faults, node {node}", spans))
    return rows


def leader_rows(leaders: Sequence[Led], groups: int, begun: int, ended: int) -> list[Row]:
    """Return a row for each group, coloured by the node that led it."""
    rows = []
    for group in range(1, groups + 1):
        seen = [led for led in leaders if led.group == group]
        ends = [*(led.at for led in seen[1:]), ended]
        spans = [
            Span(
                led.at - begun,
                end - begun,
                f"group {group}: {f'node {led.node}' if led.node else 'nobody'}, term {led.term}",
                NODE_COLOURS[(led.node - 1) % len(NODE_COLOURS)] if led.node else NOBODY_COLOUR,
            )
            for led, end in zip(seen, ends, strict=False)  # of a group never seen there is an end
        ]
        rows.append(Row(f"leader, group {group}", spans))
    return rows


def throughput(operations: Sequence[Operation], begun: int, seconds: int) -> list[int]:
    """Return how many operations were answered OK in each second."""
    counts = [0] * seconds
    for operation in operations:
        if operation.outcome is Outcome.OK and operation.completed is not None:
            second = (operation.completed - begun) // NANOSECONDS
            if 0 <= second < seconds:
                counts[second] += 1
    return counts


def latencies(
    operations: Sequence[Operation], begun: int, seconds: int
) -> list[tuple[float, float]]:
    """Return, for what was answered OK in each second, median and longest time in milliseconds."""
    taken: list[list[float]] = [[] for _ in range(seconds)]
    for operation in operations:
        if operation.outcome is Outcome.OK and operation.completed is not None:
            second = (operation.completed - begun) // NANOSECONDS
            if 0 <= second < seconds:
                taken[second].append((operation.completed - operation.invoked) / 1e6)
    return [
        (sorted(each)[len(each) // 2], max(each)) if each else (math.nan, math.nan)
        for each in taken
    ]


def x_of(nanoseconds: float) -> float:
    """Return the place of a time, in pixels."""
    return LEFT + max(0.0, nanoseconds) / NANOSECONDS * PIXELS_PER_SECOND


class Timeline:
    """Draws from top to bottom; `svg` is what came of it."""

    def __init__(self, seconds: int) -> None:
        self.width = LEFT + (seconds + 1) * PIXELS_PER_SECOND
        self.height = ROW
        self._seconds = seconds
        self._parts: list[str] = []

    def add_rows(self, rows: Sequence[Row]) -> None:
        """Draw rows of spans."""
        for row in rows:
            self._text(4, self.height + 13, row.name)
            for span in row.spans:
                x = x_of(span.begun)
                width = max(1.0, x_of(span.ended) - x)
                self._parts.append(
                    f'<rect x="{x:.1f}" y="{self.height + 2}" width="{width:.1f}" '
                    f'height="{ROW - 4}" fill="{span.colour}" fill-opacity="0.8">'
                    f"<title>{escape(self._when(span))}</title></rect>"
                )
            self.height += ROW
        self.height += GAP

    def add_throughput(self, counts: Sequence[int]) -> None:
        """Draw a bar for each second."""
        most = max(counts, default=0) or 1
        self._text(4, self.height + 13, "OK a second")
        self._text(4, self.height + 29, f"(most {most})")
        for second, count in enumerate(counts):
            height = STRIP * count / most
            self._parts.append(
                f'<rect x="{x_of(second * NANOSECONDS) + 1:.1f}" '
                f'y="{self.height + STRIP - height:.1f}" width="{PIXELS_PER_SECOND - 2}" '
                f'height="{height:.1f}" fill="#59a14f">'
                f"<title>second {second}: {count} answered OK</title></rect>"
            )
        self.height += STRIP + GAP

    def add_latencies(self, values: Sequence[tuple[float, float]]) -> None:
        """Draw median and longest of each second, by their logarithms from 0.1 ms to 10 s."""
        self._text(4, self.height + 13, "latency, ms")
        self._text(4, self.height + 29, "median, longest")
        self._text(LEFT - 34, self.height + 8, "10 s")
        self._text(LEFT - 40, self.height + STRIP, "0.1 ms")
        for place, colour in ((0, "#4c78a8"), (1, "#e15759")):
            points = [
                f"{x_of((second + 0.5) * NANOSECONDS):.1f},{self._y_of_latency(value[place]):.1f}"
                for second, value in enumerate(values)
                if not math.isnan(value[place])
            ]
            line = f'<polyline points="{" ".join(points)}" fill="none" stroke="{colour}"/>'
            self._parts.append(line)
        self.height += STRIP + GAP

    def _y_of_latency(self, milliseconds: float) -> float:
        part = (math.log10(max(0.1, milliseconds)) + 1) / 5
        return self.height + STRIP * (1 - min(1.0, part))

    @property
    def svg(self) -> str:
        """The whole picture."""
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{self.width}" height="{self.height}" '
            f'font-family="sans-serif" font-size="11">{"".join(self._axis())}'
            f"{''.join(self._parts)}</svg>"
        )

    def _axis(self) -> Iterator[str]:
        for second in range(0, self._seconds + 1, 5):
            x = x_of(second * NANOSECONDS)
            yield f'<line x1="{x}" y1="14" x2="{x}" y2="{self.height}" stroke="#dddddd"/>'
            yield f'<text x="{x}" y="11" text-anchor="middle" fill="#666666">{second} s</text>'

    def _text(self, x: float, y: float, text: str) -> None:
        self._parts.append(f'<text x="{x}" y="{y}">{escape(text)}</text>')

    @staticmethod
    def _when(span: Span) -> str:
        begun, ended = span.begun / NANOSECONDS, span.ended / NANOSECONDS
        return f"{span.text} ({begun:.2f} s to {ended:.2f} s)"
