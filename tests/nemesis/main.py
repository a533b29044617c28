"""The command line: rounds until the time is up, a line for each, and the sum as the last one."""

from __future__ import annotations

import argparse
import shutil
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from tests.ledger import Campaign, record
from tests.nemesis.faults import why_impossible
from tests.nemesis.judge import Check
from tests.nemesis.page import write_index, write_page
from tests.nemesis.plan import FAULTS, Plan, plan_round
from tests.nemesis.round import Round, run_round
from tests.nemesis.sabotage import SABOTAGES, sabotaged

BUILD = Path(__file__).parents[2] / "build" / "nemesis"
PROBLEMS_SHOWN = 10
ERRORS_SHOWN = 5


def say(text: str) -> None:
    """Print at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.nemesis", description="Judge real processes under faults."
    )
    parser.add_argument("--minutes", type=float, default=10.0, help="begin no round after so many")
    parser.add_argument("--nodes", type=int, choices=(3, 5), help="else some rounds have either")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--round", type=int, help="run this one alone")
    parser.add_argument("--seconds", type=float, help="the length of a round; else 60 to 90")
    parser.add_argument(
        "--faults",
        type=lambda text: tuple(text.split(",")),
        default=FAULTS,
        help="of " + ",".join(FAULTS),
    )
    parser.add_argument(
        "--sabotage", choices=tuple(SABOTAGES), default="", help="break the nodes, to be found out"
    )
    parser.add_argument("--ledger", action="store_true", help="add a line to tests/ledger.tsv")
    parser.add_argument("--output", type=Path, help="else build/nemesis/SEED")
    return parser.parse_args(arguments)


def possible_faults(wanted: Sequence[str]) -> tuple[str, ...]:
    """Return those that can be done here, and print why the others cannot."""
    possible = []
    for fault in wanted:
        reason = why_impossible(fault)
        if reason:
            say(f"skipped: {fault}, because {reason}")
        else:
            possible.append(fault)
    return tuple(possible)


def main(arguments: Sequence[str]) -> int:
    """Run rounds; the exit code is 1 if anything is wrong or left undecided."""
    options = parse(arguments)
    output: Path = (options.output or BUILD / str(options.seed)).resolve()
    faults = possible_faults(options.faults)
    rounds: list[Round] = []
    begun = time.monotonic()
    number = options.round or 0
    while not rounds or (options.round is None and time.monotonic() - begun < options.minutes * 60):
        plan = plan_round(
            options.seed, number, seconds=options.seconds, nodes=options.nodes, faults=faults
        )
        say(str(plan))
        directory = output / plan.name
        shutil.rmtree(directory, ignore_errors=True)
        with sabotaged(options.sabotage, output / "sabotage"):
            done = attempt(plan, directory)
        rounds.append(done)
        keep(done, directory)
        write_index(rounds, output / "index.html")
        tell(done)
        done.forget()
        number += 1
    seconds = time.monotonic() - begun
    if options.ledger:
        record(campaign(rounds, seconds, options.seed))
    return conclude(rounds, seconds, output)


def campaign(rounds: Sequence[Round], seconds: float, seed: int) -> Campaign:
    """Return what the ledger says of these rounds."""
    return Campaign(
        kind="nemesis",
        extent=f"{seconds / 60:.1f} minutes, seed {seed}",
        operations=sum(done.operations for done in rounds),
        faults=sum(len(done.faults) for done in rounds),
        violations=sum(done.violations + done.undecided for done in rounds),
    )


def attempt(plan: Plan, directory: Path) -> Round:
    """Run a round. One that cannot be brought to its end is a violation, and others may follow."""
    try:
        return run_round(plan, directory)
    except Exception:  # noqa: BLE001  # told in the verdict, whatever it is
        directory.mkdir(parents=True, exist_ok=True)
        return Round(plan, checks=[Check("course", "the whole round", [traceback.format_exc()])])


def keep(done: Round, directory: Path) -> None:
    """Keep what explains a round; its data only if something is wrong."""
    done.history.save(directory / "history.jsonl")
    write_page(done, directory / "index.html")
    if done.is_passed:
        for path in directory.glob("n[0-9]*"):
            if path.is_dir():
                shutil.rmtree(path)


def tell(done: Round) -> None:
    """Print the line of a round, and what is wrong with it."""
    say(str(done))
    for check in done.checks:
        for problem in check.problems[:PROBLEMS_SHOWN]:
            say(f"  {check.name}: {problem}")
        if more := len(check.problems[PROBLEMS_SHOWN:]):
            say(f"  {check.name}: and {more} more")
        if check.undecided:
            say(f"  {check.name}: {check.undecided} undecided: {', '.join(check.keys)}")


def conclude(rounds: Sequence[Round], seconds: float, output: Path) -> int:
    """Print the sum, and return the exit code."""
    operations = sum(done.operations for done in rounds)
    lost = sum(done.lost for done in rounds)
    violations = sum(done.violations for done in rounds)
    undecided = sum(done.undecided for done in rounds)
    say(f"pages: {output / 'index.html'}")
    say(
        f"{seconds / 60:.1f} minutes, {operations} operations, {lost} lost, "
        f"{violations} violations, {undecided} undecided"
    )
    return int(not all(done.is_passed for done in rounds))
