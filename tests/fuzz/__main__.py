"""Fuzz the decoders of everything that comes from another process or from disk: `make fuzz`.

    python -m tests.fuzz [--inputs 200000] [--seed N] [TARGET ...]

The last lines have one for each target. The exit code is 1 if an input failed.
"""

import argparse
import random
import sys

from tests.fuzz.engine import run
from tests.fuzz.targets import TARGETS


def main(arguments: list[str] | None = None) -> int:
    """Run the program; return its exit code."""
    names = [target.name for target in TARGETS]
    parser = argparse.ArgumentParser(prog="fuzz", description="Fuzz the decoders.")
    parser.add_argument("--inputs", type=int, default=200_000, help="how many for each target")
    parser.add_argument("--seed", type=int, default=None, help="repeat the run of this seed")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(names))
    options = parser.parse_args(arguments)
    unknown = set(options.targets) - set(names)
    if unknown:
        parser.error(f"no such target: {', '.join(sorted(unknown))}")
    seed = random.randrange(1 << 32) if options.seed is None else options.seed
    _write(f"seed {seed}\n")
    chosen = [target for target in TARGETS if target.name in (options.targets or names)]
    failed = [target for target in chosen if not run(target, options.inputs, seed, _write)]
    return 1 if failed else 0


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
