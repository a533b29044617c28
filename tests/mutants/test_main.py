"""What `make mutants` prints, and how it ends, with judges that are made up."""

from __future__ import annotations

import pytest

from tests.mutants import __main__, judging
from tests.mutants.judging import Verdict
from tests.mutants.mutant import Judge, Mutant, Sim

FIRST = Mutant("first", (1, 2), "it forgets", (), Sim(()))
SECOND = Mutant("second", (3,), "it lies", (), Sim(("drop",)))
SEEN = Verdict("two leaders", "simulation", 7, 9)
NOTHING = Verdict("", "simulation", 300)


def survey(
    monkeypatch: pytest.MonkeyPatch,
    verdicts: dict[str, Verdict],
    sound: Verdict = NOTHING,
    sound_again: Verdict = NOTHING,
) -> int:
    def judge(mutant: Mutant, _seeds: int, _processes: int) -> Verdict:
        return verdicts[mutant.name]

    def acquit(_judge: Judge, verdict: Verdict | None = None) -> Verdict:
        return sound if verdict is None else sound_again

    monkeypatch.setattr(judging, "judge", judge)
    monkeypatch.setattr(judging, "acquit", acquit)
    return __main__.survey([FIRST, SECOND], 300, 1)


def test_a_line_for_each_mutant_and_a_count_at_the_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = Verdict("assert 1 == 2", "test_that")
    assert survey(monkeypatch, {"first": SEEN, "second": script}) == 0
    assert capsys.readouterr().out.splitlines() == [
        "1, 2 first | simulation | 7 | two leaders",
        "3 second | test_that | - | assert 1 == 2",
        "2 mutants, 2 found",
    ]


def test_a_mutant_that_nobody_finds_is_a_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert survey(monkeypatch, {"first": SEEN, "second": NOTHING}) == 1
    assert capsys.readouterr().out.splitlines()[1:] == [
        "3 second | simulation | 300 | NOT FOUND",
        "2 mutants, 1 found",
    ]


def test_what_is_seen_without_the_bug_too_does_not_find_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert survey(monkeypatch, {"first": SEEN, "second": SEEN}, sound_again=SEEN) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "2 mutants, 0 found"
    assert "the same is seen without the bug: two leaders" in lines[0]


def test_nothing_is_judged_by_a_judge_that_condemns_the_sound_product(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert survey(monkeypatch, {}, sound=SEEN) == 1
    assert capsys.readouterr().out == "without any bug, simulation sees: two leaders\n"
