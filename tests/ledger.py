"""The ledger of campaigns: `tests/ledger.tsv`, one line for each."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import NamedTuple

LEDGER = Path(__file__).with_name("ledger.tsv")
COLUMNS = ("commit", "kind", "extent", "operations", "faults", "violations")


class Campaign(NamedTuple):
    """What one campaign came to. `extent` says which seeds or how many minutes."""

    kind: str
    extent: str
    operations: int
    faults: int
    violations: int


def record(campaign: Campaign, ledger: Path = LEDGER, commit: str | None = None) -> None:
    """Add a line. `commit` is what was tested, by default what is checked out."""
    if commit is None:
        commit = checked_out()
    fields = (commit, *map(str, campaign))
    if any("\t" in field or "\n" in field for field in fields):
        raise ValueError(f"a field of the ledger has a tab or a new line: {fields}")
    if not ledger.exists():
        ledger.write_text("\t".join(COLUMNS) + "\n")
    with ledger.open("a") as file:
        file.write("\t".join(fields) + "\n")


def checked_out(root: Path = LEDGER.parents[1]) -> str:
    """Return the short name of the commit that is checked out, with a + if files differ from it.

    The ledger itself may differ: a campaign that follows another finds its line there.
    """
    ledger = LEDGER.relative_to(LEDGER.parents[1])
    commit = _git(root, "rev-parse", "--short=10", "HEAD")
    changed = _git(root, "status", "--porcelain", "--untracked-files=no", f":!{ledger}")
    return commit + ("+" if changed else "")


def _git(root: Path, *arguments: str) -> str:
    return subprocess.run(
        ("git", *arguments), cwd=root, capture_output=True, text=True, check=True
    ).stdout.strip()


def lines(ledger: Path = LEDGER) -> list[dict[str, str]]:
    """Return the ledger's lines. Raises ValueError for one that is not whole."""
    rows = ledger.read_text().splitlines()
    if rows[0].split("\t") != list(COLUMNS):
        raise ValueError(f"{ledger}: the first line does not name the columns")
    found = []
    for number, row in enumerate(rows[1:], 2):
        fields = row.split("\t")
        if len(fields) != len(COLUMNS):
            raise ValueError(f"{ledger}, line {number}: {len(fields)} fields")
        found.append(dict(zip(COLUMNS, fields, strict=True)))
    return found
