"""Run simulations: `python -m tests.sim --seeds 1000`, `python -m tests.sim --seed 7 --trace`."""

from __future__ import annotations

import functools
import os
import sys
from pathlib import Path

import click

from tests.ledger import Campaign, record
from tests.sim.campaign import Run, Summary, run_seed, run_seeds
from tests.sim.plans import Plan, quick
from tests.sim.simulation import Simulation


@click.command()
@click.option("--seeds", default=100, show_default=True, help="How many seeds to run.")
@click.option("--from", "first", default=1, show_default=True, help="The first of them.")
@click.option("--processes", default=os.cpu_count() or 1, help="How many run side by side.")
@click.option("--ledger", is_flag=True, help="Add a line about this campaign to the ledger.")
@click.option("--seed", type=int, help="Run this one alone.")
@click.option("--quick", "is_quick", is_flag=True, help="With fewer operations, as `make test`.")
@click.option("--trace", is_flag=True, help="Print a line for each event of --seed.")
@click.option(
    "--history", type=click.Path(path_type=Path), help="Save the operations of --seed in a file."
)
def main(
    seeds: int,
    first: int,
    processes: int,
    ledger: bool,
    seed: int | None,
    is_quick: bool,
    trace: bool,
    history: Path | None,
) -> None:
    """Simulate clusters and their faults; end with 1 if anything went wrong."""
    if seed is not None:
        sys.exit(run_one(seed, is_quick, trace, history))
    summary = Summary()
    run_one_seed = functools.partial(run_seed, change=quick) if is_quick else run_seed
    for run in run_seeds(range(first, first + seeds), processes, run_one_seed):
        summary.add(run)
        if run.violation:
            report(run)
    for line in summary.lines():
        click.echo(line)
    if ledger:
        record(
            Campaign(
                kind="sim",
                extent=f"seeds {first}-{first + seeds - 1}",
                operations=summary.operations,
                faults=summary.faults,
                violations=len(summary.violated),
            )
        )
    sys.exit(1 if summary.violated else 0)


def run_one(seed: int, is_quick: bool, trace: bool, history: Path | None) -> int:
    """Run one seed again, to be looked at."""
    change = quick if is_quick else unchanged
    result = Simulation(seed, click.echo if trace else None, change=change).run()
    if history is not None:
        result.history.save(history)
    click.echo(f"seed {seed}: {result.plan}")
    click.echo(f"trace {result.digest}, {result.operations} operations")
    if result.violation:
        click.echo(result.violation)
    click.echo(f"1 seeds, {1 if result.violation else 0} violations")
    return 1 if result.violation else 0


def unchanged(plan: Plan) -> Plan:
    """Return the plan as it was drawn."""
    return plan


def report(run: Run) -> None:
    """Print what was violated, and how to see it again."""
    click.echo(f"seed {run.seed}: {run.plan}")
    click.echo("  " + run.violation.replace("\n", "\n  "))
    click.echo(f"  again: python -m tests.sim --seed {run.seed} --trace")


if __name__ == "__main__":
    main()
