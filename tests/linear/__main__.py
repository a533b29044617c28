"""The command line: `python -m tests.linear FILE...` checks saved histories again."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from tests.linear import cheap
from tests.linear.checker import STEPS_PER_KEY_DEFAULT, check
from tests.linear.history import History, HistoryError
from tests.linear.models import models_by_kind

EXIT_SOUND, EXIT_VIOLATION, EXIT_BAD_FILE = 0, 1, 2


def main(arguments: Sequence[str], output: TextIO) -> int:
    """Check the files, each key by the model its operations tell, and return the exit code.

    A bad file outweighs a violation; the other files are checked in any case.
    """
    parser = argparse.ArgumentParser(
        prog="python -m tests.linear", description="Check histories of operations again."
    )
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="a saved history")
    parser.add_argument(
        "--steps",
        type=int,
        default=STEPS_PER_KEY_DEFAULT,
        help="give a key up as undecided after so many steps (%(default)s)",
    )
    options = parser.parse_args(arguments)
    totals = _Totals()
    for path in options.files:
        output.write(f"{path}\n")
        try:
            totals.add(path, options.steps, output)
        except (HistoryError, OSError) as error:
            totals.has_bad_file = True
            output.write(f"bad file: {error}\n")
    output.write(
        f"{totals.histories} histories, {totals.operations} operations,"
        f" {totals.violations} violations, {totals.undecided} undecided\n"
    )
    if totals.has_bad_file:
        return EXIT_BAD_FILE
    return EXIT_VIOLATION if totals.violations or totals.undecided else EXIT_SOUND


class _Totals:
    def __init__(self) -> None:
        self.histories = self.operations = self.violations = self.undecided = 0
        self.has_bad_file = False

    def add(self, path: Path, steps_per_key: int, output: TextIO) -> None:
        """Check one file, write what there is to say of it, and count it."""
        history = History.load(path)
        report = check(history, models_by_kind(history), steps_per_key=steps_per_key)
        found = cheap.check_all(history)
        output.writelines(f"{name}: {text}\n" for name, text in sorted(history.meta.items()))
        output.writelines(f"{violation}\n" for violation in found)
        output.write(f"{report}\n")
        self.histories += 1
        self.operations += report.operation_count
        self.violations += len(report.violations) + len(found)
        self.undecided += len(report.undecided)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], sys.stdout))
