"""The pages: one for each round, and one with a line for each of them. Each is a single file."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from html import escape
from pathlib import Path

from tests.linear.history import Operation, Outcome
from tests.nemesis import timeline
from tests.nemesis.round import Round
from tests.nemesis.timeline import (
    FAULT_COLOURS,
    NANOSECONDS,
    NODE_COLOURS,
    OUTCOME_COLOURS,
    Timeline,
)

OUTCOMES = list(Outcome)
CLIENT_ROW = 14
UNKNOWN_SECONDS = 0.3
"""How long an operation without an end is drawn: nobody knows when it happened."""
SHOWN_BYTES = 60
ERRORS_SHOWN = 12

STYLE = """
body { font: 14px sans-serif; margin: 16px; color: #222; }
table { border-collapse: collapse; margin: 8px 0 16px; }
td, th { border: 1px solid #ccc; padding: 3px 8px; text-align: left; vertical-align: top; }
.bad { background: #fdd; } .good { background: #e6f4e6; }
pre { margin: 0; white-space: pre-wrap; font-size: 12px; }
.scroll { overflow-x: auto; border: 1px solid #ccc; position: relative; }
.key { display: inline-block; width: 11px; height: 11px; margin: 0 4px 0 12px; }
#hover { position: fixed; display: none; background: #222; color: #fff; padding: 4px 8px;
  font-size: 12px; max-width: 600px; pointer-events: none; white-space: pre-wrap; }
"""

# The operations are drawn here, and found again under the pointer.
SCRIPT = """
const canvas = document.getElementById('operations'), hover = document.getElementById('hover');
const context = canvas.getContext('2d');
const x = milliseconds => data.left + milliseconds / 1000 * data.pixels;
context.font = '11px sans-serif';
data.rows.forEach((name, row) => context.fillText(name, 4, row * data.height + 11));
for (const [row, at, taken, outcome, text, bad] of data.operations) {
  context.fillStyle = data.colours[outcome];
  context.fillRect(x(at), row * data.height + 2, Math.max(1, taken / 1000 * data.pixels),
    data.height - 4);
  if (bad) {
    context.strokeStyle = '#000';
    context.strokeRect(x(at) - 1, row * data.height + 1,
      Math.max(1, taken / 1000 * data.pixels) + 2, data.height - 2);
  }
}
canvas.addEventListener('mousemove', event => {
  const row = Math.floor(event.offsetY / data.height);
  let best = null, least = 4;
  for (const operation of data.operations) {
    if (operation[0] !== row) continue;
    const from = x(operation[1]), to = from + Math.max(1, operation[2] / 1000 * data.pixels);
    const off = Math.max(0, from - event.offsetX, event.offsetX - to);
    if (off <= least) { best = operation; least = off; }
  }
  hover.style.display = best ? 'block' : 'none';
  if (best) {
    hover.textContent = best[4] + ' (' + (best[1] / 1000).toFixed(3) + ' s, '
      + best[2].toFixed(1) + ' ms)';
    hover.style.left = Math.min(event.clientX + 12, window.innerWidth - 420) + 'px';
    hover.style.top = event.clientY + 12 + 'px';
  }
});
canvas.addEventListener('mouseleave', () => { hover.style.display = 'none'; });
"""


def write_page(done: Round, path: Path) -> None:
    """Write the page of a round."""
    title = f"Nemesis: seed {done.plan.seed}, round {done.plan.number}"
    body = "\n".join(
        [
            f"<h1>{escape(title)}</h1>",
            f"<p>{escape(str(done))}</p>",
            _verdicts(done),
            "<h2>Timeline</h2>",
            _legend(done),
            f'<div class="scroll">{_picture(done)}<br>{_canvas(done)}</div>',
            '<div id="hover"></div>',
            _errors(done),
            f"<h2>Plan</h2><pre>{escape(str(done.plan))}</pre>",
            f"<script>const data = {_data(done)};{SCRIPT}</script>",
        ]
    )
    path.write_text(_document(title, body))


def write_index(rounds: Sequence[Round], path: Path) -> None:
    """Write the page with a line for each round."""
    lines = []
    for done in rounds:
        counts = done.outcomes
        cells = [
            f'<a href="{done.plan.name}/index.html">{done.plan.number}</a>',
            escape(str(done.plan.shape)),
            escape(", ".join(done.plan.faults)),
            str(done.operations),
            *(str(counts[outcome]) for outcome in OUTCOMES),
            str(done.lost),
            str(done.violations),
            str(done.undecided),
        ]
        colour = "good" if done.is_passed else "bad"
        lines.append(f'<tr class="{colour}">' + "".join(f"<td>{cell}</td>" for cell in cells))
    head = "".join(
        f"<th>{name}</th>"
        for name in (
            "round", "cluster", "faults", "operations",
            *(outcome.value for outcome in OUTCOMES), "lost", "violations", "undecided",
        )
    )  # fmt: skip
    title = f"Nemesis: seed {rounds[0].plan.seed}" if rounds else "Nemesis"
    table = f"<table><tr>{head}{''.join(lines)}</table>"
    path.write_text(_document(title, f"<h1>{escape(title)}</h1>{table}"))


def _document(title: str, body: str) -> str:
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n<body>{body}</body></html>\n"
    )


def _verdicts(done: Round) -> str:
    lines = ["<h2>Verdicts</h2><table><tr><th>check</th><th>examined</th><th>verdict</th></tr>"]
    for check in done.checks:
        verdict = "good" if check.is_passed else "bad"
        texts = [f"<pre>{escape(problem)}</pre>" for problem in check.problems]
        if check.undecided:
            texts.append(f"{check.undecided} undecided: {escape(', '.join(check.keys))}")
        lines.append(
            f'<tr class="{verdict}"><td>{escape(check.name)}</td><td>{escape(check.examined)}</td>'
            f"<td>{''.join(texts) or 'nothing wrong'}</td></tr>"
        )
    return "\n".join([*lines, "</table>"])


def _legend(done: Round) -> str:
    entries = [(outcome.value, OUTCOME_COLOURS[outcome]) for outcome in OUTCOMES]
    entries += [
        (f"node {node} leads", NODE_COLOURS[(node - 1) % len(NODE_COLOURS)])
        for node in range(1, done.plan.shape.nodes + 1)
    ]
    entries += [(fault, FAULT_COLOURS[fault]) for fault in done.plan.faults]
    keys = (
        f'<span class="key" style="background:{colour}"></span>{escape(name)}'
        for name, colour in entries
    )
    return f"<p>{''.join(keys)}. Hover for more; operations on an object in doubt are framed.</p>"


def _picture(done: Round) -> str:
    seconds = math.ceil((done.ended - done.begun) / NANOSECONDS)
    picture = Timeline(seconds)
    shape = done.plan.shape
    picture.add_rows(timeline.fault_rows(done.faults, shape.nodes, done.begun, done.ended))
    picture.add_rows(timeline.leader_rows(done.leaders, shape.groups, done.begun, done.ended))
    operations = done.history.operations
    picture.add_throughput(timeline.throughput(operations, done.begun, seconds))
    picture.add_latencies(timeline.latencies(operations, done.begun, seconds))
    return picture.svg


def _drawn(done: Round) -> list[Operation]:
    """Return all operations but the reads in the end: there is no room for them, and no need."""
    return [operation for operation in done.history.operations if operation.invoked <= done.ended]


def _client_numbers(done: Round) -> list[int]:
    return sorted({operation.client for operation in _drawn(done)})


def _canvas(done: Round) -> str:
    seconds = math.ceil((done.ended - done.begun) / NANOSECONDS)
    width = timeline.LEFT + (seconds + 1) * timeline.PIXELS_PER_SECOND
    height = CLIENT_ROW * len(_client_numbers(done))
    return f'<canvas id="operations" width="{width}" height="{height}"></canvas>'


def _data(done: Round) -> str:
    """Return what the script draws, as JSON that cannot end the script."""
    clients = _client_numbers(done)
    row_of = {client: row for row, client in enumerate(clients)}
    doubted = {key for check in done.checks for key in check.keys}
    operations = []
    for operation in _drawn(done):
        milliseconds = UNKNOWN_SECONDS * 1000
        if operation.completed is not None:
            milliseconds = (operation.completed - operation.invoked) / 1e6
        operations.append(
            [
                row_of[operation.client],
                round((operation.invoked - done.begun) / 1e6, 1),
                round(milliseconds, 1),
                OUTCOMES.index(operation.outcome),
                _text(operation),
                int(operation.key in doubted),
            ]
        )
    data = {
        "left": timeline.LEFT,
        "pixels": timeline.PIXELS_PER_SECOND,
        "height": CLIENT_ROW,
        "rows": [f"client {client}" for client in clients],
        "colours": [OUTCOME_COLOURS[outcome] for outcome in OUTCOMES],
        "operations": operations,
    }
    return json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")


def _text(operation: Operation) -> str:
    arguments = ", ".join(_short(argument) for argument in operation.arguments)
    answer = operation.outcome.value
    if operation.outcome is Outcome.OK:
        answer = _short(operation.result)
    return f"{operation.key}: {operation.kind}({arguments}) -> {answer}"


def _short(value: object) -> str:
    text = value.decode("latin-1") if isinstance(value, bytes) else str(value)
    return text if len(text) <= SHOWN_BYTES else f"...{text[-SHOWN_BYTES:]}"


def _errors(done: Round) -> str:
    lines = [
        f"<tr><td>{count}</td><td>{escape(text)}</td></tr>"
        for text, count in done.errors.most_common(ERRORS_SHOWN)
    ]
    table = "<table><tr><th>times</th><th>answer</th></tr>" + "".join(lines) + "</table>"
    return f"<h2>Errors that clients met</h2>{table}" if lines else ""
