"""The pages, made from a small history: what they show, and that nothing of them is elsewhere."""

import json
import math
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from tests.linear.history import History, Operation, Outcome
from tests.nemesis.faults import FaultRecord
from tests.nemesis.judge import Check
from tests.nemesis.page import write_index, write_page
from tests.nemesis.plan import Event, Plan, Shape
from tests.nemesis.round import Round
from tests.nemesis.status import Led
from tests.nemesis.timeline import (
    NANOSECONDS,
    Timeline,
    fault_rows,
    latencies,
    leader_rows,
    throughput,
    x_of,
)

BEGUN = 1000 * NANOSECONDS


def at(seconds: float) -> int:
    return BEGUN + int(seconds * NANOSECONDS)


def operation(client: int, outcome: Outcome, begun: float, ended: float | None) -> Operation:
    completed = None if ended is None else at(ended)
    return Operation(
        client, "register-0-0", "write", (b"</script>",), None, at(begun), completed, outcome
    )


@pytest.fixture
def done() -> Round:
    """A round of four seconds in which something was wrong."""
    plan = Plan(7, 2, 4.0, Shape(3, 1, 2, 3), ("kill",), (Event(1.0, 1.0, "kill", (2,), 0),), 0)
    return Round(
        plan,
        BEGUN,
        at(4),
        History(
            [
                operation(1, Outcome.OK, 0.1, 0.2),
                operation(1, Outcome.OK, 1.1, 1.5),
                operation(2, Outcome.UNKNOWN, 1.2, None),
                operation(2, Outcome.FAILED, 2.0, 2.1),
                operation(900, Outcome.OK, 5.0, 5.1),
            ]
        ),
        [FaultRecord("kill", (2,), at(1), at(2.5), ["it hurt"])],
        [Led(at(0.1), 1, 2, 1), Led(at(1.8), 1, 3, 2), Led(at(0.1), 2, 0, 1)],
        [
            Check("liveness", "all groups"),
            Check("linearizability", "5 operations", ["key <x>: VIOLATION"], keys=["register-0-0"]),
        ],
    )


class Page(HTMLParser):
    """Reads a page: its text, and whatever it would load from elsewhere."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loaded: list[str] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loaded += [value or "" for name, value in attrs if name in {"src", "href"}]

    def handle_data(self, data: str) -> None:
        self.words += data


def spans(svg: str) -> Iterator[tuple[str, float, float]]:
    """Yield hover text, begin and end of all that is drawn with a hover text."""
    for rectangle in ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}rect"):
        title = rectangle.find("{http://www.w3.org/2000/svg}title")
        assert title is not None
        assert title.text is not None
        x = float(rectangle.attrib["x"])
        yield title.text, x, x + float(rectangle.attrib["width"])


def test_a_fault_stands_in_the_rows_of_its_nodes(done: Round) -> None:
    rows = fault_rows(done.faults, 3, done.begun, done.ended)
    assert [len(row.spans) for row in rows] == [0, 1, 0]
    (span,) = rows[1].spans
    assert (span.begun, span.ended) == (NANOSECONDS, 2.5 * NANOSECONDS)
    assert "it hurt" in span.text


def test_a_rolling_restart_stands_where_each_node_was_away() -> None:
    record = FaultRecord("roll", (1, 2), at(0), at(9), spans={1: (at(1), at(2))})
    one, two = fault_rows([record], 2, BEGUN, at(10))
    assert (one.spans[0].begun, one.spans[0].ended) == (NANOSECONDS, 2 * NANOSECONDS)
    assert two.spans[0].ended == 9 * NANOSECONDS


def test_a_leader_leads_until_the_next_one(done: Round) -> None:
    first, second = leader_rows(done.leaders, 2, done.begun, done.ended)
    assert [(span.begun, span.ended) for span in first.spans] == [
        (0.1 * NANOSECONDS, 1.8 * NANOSECONDS),
        (1.8 * NANOSECONDS, 4 * NANOSECONDS),
    ]
    assert first.spans[0].colour != first.spans[1].colour
    assert "nobody" in second.spans[0].text


def test_throughput_and_latency_are_those_of_each_second(done: Round) -> None:
    operations = done.history.operations
    assert throughput(operations, done.begun, 4) == [1, 1, 0, 0]
    values = latencies(operations, done.begun, 4)
    assert values[0] == pytest.approx((100, 100))
    assert values[1] == pytest.approx((400, 400))
    assert all(map(math.isnan, values[2]))


def test_the_picture_is_svg_with_everything_at_its_time(done: Round) -> None:
    picture = Timeline(4)
    picture.add_rows(fault_rows(done.faults, 3, done.begun, done.ended))
    picture.add_throughput([1, 1, 0, 0])
    picture.add_latencies(latencies(done.history.operations, done.begun, 4))
    drawn = {text: (begin, end) for text, begin, end in spans(picture.svg)}
    fault = next(text for text in drawn if text.startswith("kill of 2"))
    assert drawn[fault] == pytest.approx((x_of(NANOSECONDS), x_of(2.5 * NANOSECONDS)), abs=0.2)
    assert "second 1: 1 answered OK" in drawn


def test_a_page_has_the_verdicts_and_loads_nothing(done: Round, tmp_path: Path) -> None:
    path = tmp_path / "index.html"
    write_page(done, path)
    text = path.read_text()
    page = Page(text)
    assert page.loaded == []
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")
    for words in ("key <x>: VIOLATION", "nothing wrong", "faults, node 2", "leader, group 1"):
        assert words in page.words
    assert str(done.plan) in page.words


def test_the_script_has_all_operations_with_their_outcomes(done: Round, tmp_path: Path) -> None:
    path = tmp_path / "index.html"
    write_page(done, path)
    text = path.read_text()
    assert text.count("</script>") == 1
    found = re.search(r"const data = (\{.*?\});\n", text)
    assert found is not None
    data = json.loads(found[1])
    assert data["rows"] == ["client 1", "client 2"]
    # Row, begin and length in milliseconds, outcome, text, whether it is in doubt.
    assert [[*each[:4], each[5]] for each in data["operations"]] == [
        [0, 100.0, 100.0, 0, 1],
        [0, 1100.0, 400.0, 0, 1],
        [1, 1200.0, 300.0, 1, 1],
        [1, 2000.0, 100.0, 2, 1],
    ]
    assert data["operations"][0][4] == "register-0-0: write(</script>) -> None"


def test_the_index_has_a_line_for_each_round(done: Round, tmp_path: Path) -> None:
    path = tmp_path / "index.html"
    write_index([done], path)
    page = Page(path.read_text())
    assert page.loaded == ["round-002/index.html"]
    assert str(done.plan.shape) in page.words
