"""Run simulations: `python -m tests.sim --seeds 1000`, `python -m tests.sim --seed 7 --trace`."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import click

from tests.sim.simulation import Result, Simulation


@click.command()
@click.option("--seeds", default=100, show_default=True, help="How many seeds to run.")
@click.option("--from", "first", default=1, show_default=True, help="The first of them.")
@click.option("--seed", type=int, help="Run this one alone.")
@click.option("--trace", is_flag=True, help="Print a line for each event.")
@click.option("--history", type=click.Path(path_type=Path), help="Save the history of --seed.")
def main(seeds: int, first: int, seed: int | None, trace: bool, history: Path | None) -> None:
    """Simulate clusters and their faults; end with 1 if anything went wrong."""
    numbers = range(first, first + seeds) if seed is None else (seed,)
    violations = 0
    began = time.process_time()
    operations = 0
    for number in numbers:
        result = Simulation(number, click.echo if trace else None).run()
        operations += result.operations
        if result.violation:
            violations += 1
            report(result)
        elif seed is not None:
            click.echo(f"seed {number}: trace {result.digest}, {result.operations} operations")
        if history is not None:
            result.history.save(history)
    seconds = time.process_time() - began
    click.echo(
        f"{operations} operations in {seconds:.1f} s of CPU: {operations / seconds:.0f} a second"
    )
    click.echo(f"{len(numbers)} seeds, {violations} violations")
    sys.exit(1 if violations else 0)


def report(result: Result) -> None:
    """Print what was violated, and how to see it again."""
    click.echo(f"seed {result.seed}: {result.plan}")
    click.echo(f"  {result.violation}")
    click.echo(f"  again: python -m tests.sim --seed {result.seed} --trace")


if __name__ == "__main__":
    main()
