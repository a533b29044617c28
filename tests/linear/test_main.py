"""Tests of the command `python -m tests.linear`."""

from __future__ import annotations

import subprocess
import sys
from io import StringIO
from pathlib import Path
from random import Random

import pytest

from tests.linear.__main__ import main
from tests.linear.atomic_object import MODELS, sound_history
from tests.linear.history import History, Operation, Outcome
from tests.linear.planting import PLANTERS, plant

ROOT = Path(__file__).parents[2]


def run(*arguments: object) -> tuple[int, list[str]]:
    output = StringIO()
    code = main([str(argument) for argument in arguments], output)
    return code, output.getvalue().splitlines()


def saved(path: Path, history: History) -> Path:
    history.save(path)
    return path


@pytest.fixture
def sound_files(tmp_path: Path) -> list[Path]:
    return [
        saved(tmp_path / sort, sound_history(sort, Random(1), operations=50)) for sort in MODELS
    ]


def test_sound_histories_pass(sound_files: list[Path]) -> None:
    code, lines = run(*sound_files)
    assert code == 0
    assert lines[0] == str(sound_files[0])
    assert lines[1] == "sort: register"
    operations = sum(len(History.load(path).operations) for path in sound_files)
    assert lines[-1] == (
        f"{len(MODELS)} histories, {operations} operations, 0 violations, 0 undecided"
    )


@pytest.mark.parametrize("name", PLANTERS)
def test_planted_anomalies_fail_from_a_file_as_well(name: str, tmp_path: Path) -> None:
    code, lines = run(saved(tmp_path / "h", plant(name, Random(name))))
    assert code == 1
    assert f"planted: {name}" in lines
    assert any(line.startswith("key ") and "VIOLATION" in line for line in lines)
    assert not lines[-1].endswith(" 0 violations, 0 undecided")


def test_a_budget_used_up_is_no_pass(tmp_path: Path) -> None:
    path = saved(tmp_path / "h", sound_history("register", Random(1), operations=50))
    code, lines = run(path, "--steps", 10)
    assert code == 1
    assert lines[-1].endswith("operations, 0 violations, 1 undecided")


def test_a_bad_file_outweighs_and_the_others_are_checked(
    tmp_path: Path, sound_files: list[Path]
) -> None:
    (tmp_path / "bad").write_text("{}\n")
    wrong = saved(tmp_path / "wrong", plant("stale_read", Random(1)))
    code, lines = run(tmp_path / "bad", tmp_path / "absent", wrong, *sound_files)
    assert code == 2
    assert f"bad file: {tmp_path / 'bad'}, line 1: not a header of rafter-history" in lines
    assert lines[-1].startswith(f"{1 + len(MODELS)} histories, ")
    assert lines[-1].endswith(" 1 violations, 0 undecided")


def test_operations_of_no_one_model_make_a_bad_file(tmp_path: Path) -> None:
    operations = [
        Operation(1, "k", "add", (1,), 1, 1, 2, Outcome.OK),
        Operation(1, "k", "delete", (), None, 3, 4, Outcome.OK),
    ]
    code, lines = run(saved(tmp_path / "h", History(operations)))
    assert code == 2
    assert lines[1] == "bad file: key 'k' has add, delete: no model has all of them"


def test_it_runs_as_a_module(tmp_path: Path) -> None:
    path = saved(tmp_path / "h", plant("lost_write", Random(1)))
    done = subprocess.run(
        [sys.executable, "-m", "tests.linear", str(path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1].startswith("1 histories, ")
    assert done.stderr == ""
