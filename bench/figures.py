"""What the benchmarks print: figures beside their goals, as a table or as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import NamedTuple

from rich.console import Console
from rich.table import Table


class Figure(NamedTuple):
    """One line of the table."""

    name: str
    value: float
    unit: str
    target: str


def show(figures: Sequence[Figure], *, as_json: bool) -> None:
    """Print figures to standard output."""
    if as_json:
        print(json.dumps({figure.name: figure.value for figure in figures}))
        return
    table = Table("figure", "value", "unit", "goal")
    for figure in figures:
        table.add_row(figure.name, f"{figure.value:,.2f}", figure.unit, figure.target)
    Console().print(table)
