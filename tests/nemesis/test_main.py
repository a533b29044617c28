"""The command line: what it reads, prints and keeps, and its exit code."""

from collections import Counter
from pathlib import Path

import pytest

from tests.linear.history import History, Operation, Outcome
from tests.nemesis import main
from tests.nemesis.judge import Check
from tests.nemesis.plan import FAULTS, Plan, Shape
from tests.nemesis.round import Round


def a_round(*checks: Check) -> Round:
    plan = Plan(1, 0, 60.0, Shape(3, 1, 2, 3), ("kill",), (), 0)
    history = History(
        [
            Operation(1, "k", "read", (), None, 1, 2, Outcome.OK),
            Operation(1, "k", "write", (b"1",), None, 3, None, Outcome.UNKNOWN),
        ]
    )
    outcomes = Counter(operation.outcome for operation in history.operations)
    return Round(plan, 0, 10, history, checks=list(checks), outcomes=outcomes, wall_seconds=61.4)


def last_line(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().out.splitlines()[-1]


def test_all_faults_are_meant_unless_some_are_named() -> None:
    assert main.parse([]).faults == FAULTS
    options = main.parse(["--faults", "kill,pause", "--minutes", "0.5", "--nodes", "5"])
    assert options.faults == ("kill", "pause")
    assert (options.minutes, options.nodes) == (0.5, 5)


def test_a_fault_that_cannot_be_done_here_is_left_out_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reasons = {"sync": "strace is not installed"}
    monkeypatch.setattr(main, "why_impossible", lambda fault: reasons.get(fault, ""))
    assert main.possible_faults(["kill", "sync"]) == ("kill",)
    assert last_line(capsys) == "skipped: sync, because strace is not installed"


def test_rounds_without_a_fault_of_the_server_end_well(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rounds = [a_round(Check("liveness", "all")), a_round()]
    assert main.conclude(rounds, 120.0, tmp_path) == 0
    assert last_line(capsys) == "2.0 minutes, 4 operations, 0 lost, 0 violations, 0 undecided"


@pytest.mark.parametrize(
    ("check", "counts"),
    [
        (Check("cheap checks", "all", ["lost"], lost=1), "1 lost, 1 violations, 0 undecided"),
        (Check("liveness", "all", ["dead"]), "0 lost, 1 violations, 0 undecided"),
        (Check("linearizability", "all", undecided=2), "0 lost, 0 violations, 2 undecided"),
    ],
)
def test_whatever_is_wrong_or_left_open_makes_the_exit_code_1(
    check: Check, counts: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.conclude([a_round(), a_round(check)], 60.0, tmp_path) == 1
    assert last_line(capsys).endswith(counts)


def test_a_round_that_was_kept_is_forgotten_but_for_its_figures() -> None:
    done = a_round()
    done.forget()
    assert done.history.operations == []
    assert done.operations == 2


def test_the_line_of_a_round_has_its_figures_and_its_problems(
    capsys: pytest.CaptureFixture[str],
) -> None:
    main.tell(a_round(Check("liveness", "all", [f"problem {number}" for number in range(12)])))
    line, *problems = capsys.readouterr().out.splitlines()
    assert line == (
        "round 0: 2 operations, 1 ok, 1 unknown, 0 failed; faults: none; 0 lost, "
        "12 violations, 0 undecided; 61 s"
    )
    assert problems[0] == "  liveness: problem 0"
    assert problems[-1] == "  liveness: and 2 more"


def test_a_round_that_breaks_off_is_a_violation_and_has_a_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def break_off(*_: object) -> Round:
        raise AssertionError("node 1 ended: no such file")

    monkeypatch.setattr(main, "run_round", break_off)
    done = main.attempt(a_round().plan, tmp_path)
    assert not done.is_passed
    main.keep(done, tmp_path)
    assert "node 1 ended: no such file" in (tmp_path / "index.html").read_text()


@pytest.mark.parametrize("problems", [[], ["something"]])
def test_history_and_page_are_always_kept_and_data_if_something_is_wrong(
    problems: list[str], tmp_path: Path
) -> None:
    (tmp_path / "n1" / "wal").mkdir(parents=True)
    (tmp_path / "n1.log").write_text("started\n")
    main.keep(a_round(Check("liveness", "all", problems)), tmp_path)
    assert len(History.load(tmp_path / "history.jsonl").operations) == 2
    assert (tmp_path / "index.html").exists()
    assert (tmp_path / "n1.log").exists()
    assert (tmp_path / "n1").exists() is bool(problems)


def test_what_is_undecided_is_a_violation_in_the_ledger() -> None:
    rounds = [
        a_round(Check("liveness", "all", ["dead"])),
        a_round(Check("search", "", undecided=2)),
    ]
    assert main.campaign(rounds, 90.0, 7) == ("nemesis", "1.5 minutes, seed 7", 4, 0, 3)
