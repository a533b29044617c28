"""The ledger of campaigns."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.ledger import COLUMNS, Campaign, checked_out, lines, record

CAMPAIGN = Campaign("sim", "seeds 1-9", 100, 12, 0)


def test_a_campaign_is_a_line(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger.tsv"
    record(CAMPAIGN, ledger, "abc")
    record(CAMPAIGN._replace(violations=1), ledger, "abd")
    first, second = lines(ledger)
    assert first == dict(zip(COLUMNS, ("abc", "sim", "seeds 1-9", "100", "12", "0"), strict=True))
    assert second["violations"] == "1"


def test_what_would_break_a_line_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="tab"):
        record(CAMPAIGN._replace(extent="a\tb"), tmp_path / "ledger.tsv", "abc")


def test_a_line_that_is_not_whole_is_an_error(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger.tsv"
    ledger.write_text("\t".join(COLUMNS) + "\nabc\tsim\n")
    with pytest.raises(ValueError, match="line 2"):
        lines(ledger)
    ledger.write_text("what\n")
    with pytest.raises(ValueError, match="columns"):
        lines(ledger)


def test_a_plus_tells_of_changes_to_all_but_the_ledger(tmp_path: Path) -> None:
    ledger, code = tmp_path / "tests" / "ledger.tsv", tmp_path / "code.py"
    ledger.parent.mkdir()
    for file in (ledger, code):
        file.touch()
    who = ("-c", "user.name=test", "-c", "user.email=test@localhost", "-c", "commit.gpgsign=no")
    for command in (("init",), ("add", "."), (*who, "commit", "-m", "all")):
        subprocess.run(("git", *command), cwd=tmp_path, check=True, capture_output=True)
    commit = checked_out(tmp_path)
    assert len(commit) == 10
    ledger.write_text("another line")
    assert checked_out(tmp_path) == commit
    code.write_text("another line")
    assert checked_out(tmp_path) == commit + "+"
