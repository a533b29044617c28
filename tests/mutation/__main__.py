"""`make mutate`: change the core in many small ways and count how many the tests notice.

mutmut makes the mutants and runs, for each, the tests that reach the changed function, in forks of
one process that has imported everything: a mutant costs about 0.2 s. (cosmic-ray makes twice as
many mutants of the same modules, and starts pytest anew for each: well over the time there is.)

All happens in a copy under build/. Since mutmut passes over decorated functions, properties are
spelled out there as `name = property(name)`. Hypothesis draws the same examples every time.
A mutant that makes the tests hang is killed; one that no test reaches has survived.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.mutation.survey import Mutant, located, spell_out_properties, tally

ROOT = Path(__file__).parents[2]
COPY = ROOT / "build" / "mutation"
JUDGED = ("quorum", "progress", "log", "election")
"""The modules that the goal is about."""
BESIDES = ("unstable", "inflights")
"""Modules that are mutated too, for information."""
KILLED_PERCENT_MIN = 85.0
MINUTES_MAX = 20

TESTS = ("tests/core", "tests/paper")
LEFT_OUT = (
    "tests/core/test_chaos.py",
    "tests/core/test_serializer.py",
    "tests/paper/test_figure_3_properties.py",
)
"""Slow, and about everything at once, or about nothing that is mutated here."""


def say(*lines: str) -> None:
    """Print lines at once."""
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()


def prepare(modules: list[str]) -> None:
    """Make the copy that mutmut works in, with its configuration."""
    shutil.rmtree(COPY, ignore_errors=True)
    for name in ("rafter_core", "tests"):
        shutil.copytree(ROOT / name, COPY / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", COPY)
    for module in modules:
        path = COPY / "rafter_core" / f"{module}.py"
        path.write_text(spell_out_properties(path.read_text("utf-8")), "utf-8")
    tests = [name for name in TESTS if (ROOT / name).is_dir()]
    left_out = [f"--ignore={name}" for name in LEFT_OUT]
    options = {
        "source_paths": ["rafter_core"],
        "only_mutate": [f"rafter_core/{module}.py" for module in modules],
        "also_copy": ["rafter_core"],
        "pytest_add_cli_args": ["--hypothesis-seed=0", "-p", "no:cacheprovider", "-m", "not long"],
        "pytest_add_cli_args_test_selection": [*tests, *left_out],
    }
    lines = ["[mutmut]"]
    for key, values in options.items():
        lines += [f"{key} =", *(f"    {value}" for value in values)]
    (COPY / "setup.cfg").write_text("\n".join(lines) + "\n", "utf-8")


def mutmut(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command of mutmut in the copy and return what it printed."""
    return subprocess.run(
        [sys.executable, "-m", "mutmut", *arguments],
        cwd=COPY, capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip


def run_all(children: int, minutes_max: int, log: Path) -> str:
    """Test all mutants. Return what went wrong, empty if nothing."""
    command = [sys.executable, "-m", "mutmut", "run", "--max-children", str(children)]
    with log.open("w", encoding="utf-8") as output:
        process = subprocess.Popen(
            command, cwd=COPY, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            code = process.wait(60 * minutes_max)
        except subprocess.TimeoutExpired:
            return f"stopped after {minutes_max} minutes"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    return f"mutmut ended with code {code}, see {log}" if code else ""


def show_survivors(mutants: list[Mutant]) -> None:
    """Print where each surviving mutant is, with its change."""
    for mutant in mutants:
        if not mutant.is_killed:
            diff = mutmut("show", mutant.name).stdout
            say(*located(mutant, diff, ROOT), "")


def main() -> None:
    """Mutate, print the survivors and the table; fail if too many of the judged survive."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutation")
    parser.add_argument("--module", action="append", choices=JUDGED + BESIDES)
    parser.add_argument("--children", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--minutes", type=int, default=MINUTES_MAX, help="give up after so many")
    arguments = parser.parse_args()
    modules = arguments.module or [*JUDGED, *BESIDES]
    # An end from outside is an exception too, so that mutmut does not outlive this program.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))
    started = time.monotonic()
    prepare(modules)
    log = COPY / "run.log"
    say(f"Mutating {', '.join(modules)}; progress is in {log.relative_to(ROOT)}")
    if problem := run_all(arguments.children, arguments.minutes, log):
        sys.exit("\n".join([*log.read_text("utf-8").splitlines()[-30:], problem]))
    mutants = [
        Mutant.of_line(line) for line in mutmut("results", "--all", "true").stdout.splitlines()
    ]
    show_survivors(mutants)
    rows, percent = tally(mutants, modules, JUDGED)
    say(*rows, f"in {time.monotonic() - started:.0f} s")
    if percent < KILLED_PERCENT_MIN:
        sys.exit(f"less than {KILLED_PERCENT_MIN:.0f} % of the judged mutants were killed")


if __name__ == "__main__":
    main()
