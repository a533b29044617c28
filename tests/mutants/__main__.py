"""Judge the judge: `python -m tests.mutants`, or with the names of some mutants."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable

import click

from tests.mutants import judging
from tests.mutants.judging import Verdict
from tests.mutants.mutant import Judge, Mutant, Script
from tests.mutants.registry import MUTANTS


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(sorted(MUTANTS)), metavar="[NAME]...")
@click.option("--seeds", default=300, show_default=True, help="How many to run at most, of each.")
@click.option("--processes", default=os.cpu_count() or 1, help="How many run side by side.")
def main(names: tuple[str, ...], seeds: int, processes: int) -> None:
    """Put known bugs into the product, one at a time; end with 1 if one is not found."""
    mutants = [MUTANTS[name] for name in names] if names else [*MUTANTS.values()]
    sys.exit(survey(mutants, seeds, processes))


def survey(mutants: Iterable[Mutant], seeds: int, processes: int) -> int:
    """Judge mutants, print what found each, and return the exit code."""
    mutants = [*mutants]
    for judge in dict.fromkeys(mutant.judge for mutant in mutants):
        silent = judging.acquit(judge)
        if silent.is_found:
            click.echo(f"without any bug, {silent.found_by} sees: {silent.seen}")
            return 1
    found = 0
    for mutant in mutants:
        verdict = judging.judge(mutant, seeds, processes)
        problem = _problem(mutant.judge, verdict, seeds)
        found += not problem
        click.echo(line_of(mutant, verdict, problem))
    click.echo(f"{len(mutants)} mutants, {found} found")
    return 0 if found == len(mutants) else 1


def line_of(mutant: Mutant, verdict: Verdict, problem: str) -> str:
    """Return the line about one mutant."""
    numbers = ", ".join(map(str, mutant.numbers))
    seeds = str(verdict.seeds or "-")
    return f"{numbers} {mutant.name} | {verdict.found_by} | {seeds} | {problem or verdict.seen}"


def _problem(judge: Judge, verdict: Verdict, seeds: int) -> str:
    """Return why a mutant is not found; nothing if it is, and by its bug alone."""
    if not verdict.is_found:
        return "NOT FOUND"
    if isinstance(judge, Script):
        # Its tests have passed before.
        return ""
    silent = judging.acquit(judge, verdict)
    if silent.is_found:
        return f"NOT FOUND: the same is seen without the bug: {silent.seen}"
    return ""


if __name__ == "__main__":
    main()
