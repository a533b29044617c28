"""The command line: `python -m tests.replay PATH...`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from tests.replay.runner import run_file, transcripts


def main(arguments: Sequence[str], output: TextIO) -> int:
    """Run the transcripts at the given paths. Return the exit code: 0 if there are and all pass."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.replay", description="Replay transcripts against rafter_core."
    )
    parser.add_argument(
        "paths", nargs="+", type=Path, metavar="PATH", help="a transcript, or a folder of *.txt"
    )
    paths: list[Path] = parser.parse_args(arguments).paths
    passed = failed = 0
    for path in transcripts(paths):
        result = run_file(path)
        if result.is_passed:
            passed += 1
            output.write(f"PASS {path} ({result.directive_count} directives)\n")
        else:
            failed += 1
            output.write(f"FAIL {path}\n{result.failure}")
    output.write(f"{passed} passed, {failed} failed\n")
    if not passed and not failed:
        output.write(f"no transcript (*.txt) at {', '.join(map(str, paths))}\n")
    return 0 if passed and not failed else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], sys.stdout))
