"""The same measurements of a core that mypyc compiled: an experiment, nothing of it is shipped.

A copy of `rafter_core` is compiled in a temporary directory, and `bench.core` runs against it in a
process of its own. What this guards is that the core stays free of constructs that would forbid
compiling it; `python -m bench.core_compiled` checks just that, without a C compiler.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

import rafter_core

COMPILE_SECONDS_MAX = 600
RUN_SECONDS_MAX = 300
LINES_OF_AN_ERROR = 15

# Tells the figures of an interpreted core from those of a compiled one.
PROGRAM = """
import rafter_core.raft, sys
assert rafter_core.raft.__file__.endswith(".so"), rafter_core.raft.__file__
from bench.core import main
sys.argv = ["bench.core", "--json"]
main()
"""

# Makes C of the modules and does not compile it.
TRANSLATE = """
import sys
from mypyc.build import mypycify
mypycify(sys.argv[1:])
"""


class NotCompiled(Exception):
    """The core cannot be compiled here; the text says why."""


def measure() -> dict[str, float]:
    """Compile, and return the figures of `bench.core.measure`. Raises NotCompiled."""
    if reason := missing_tool():
        raise NotCompiled(reason)
    with tempfile.TemporaryDirectory(prefix="rafter-mypyc-") as name:
        directory = Path(name)
        _copy_package(Path(rafter_core.__file__).parent, directory)
        _copy_package(Path(__file__).parent, directory)
        compile_core(directory)
        output = _run([sys.executable, "-c", PROGRAM], directory, RUN_SECONDS_MAX)
    figures: dict[str, float] = json.loads(output)
    return figures


def missing_tool() -> str:
    """Return what is missing for compiling, empty if nothing is."""
    compiler = (sysconfig.get_config_var("CC") or "cc").split()[0]
    if not shutil.which(compiler):
        return f"there is no C compiler '{compiler}'"
    if not (Path(sysconfig.get_path("include")) / "Python.h").is_file():
        return "the headers of Python are not installed"
    for module in ("mypyc", "setuptools"):
        if importlib.util.find_spec(module) is None:
            return f"the package {module} is not installed"
    return ""


def compile_core(directory: Path) -> None:
    """Compile `directory`/rafter_core in place. Raises NotCompiled."""
    _give_to_mypyc(directory, "-m", "mypyc")


def translate_core(directory: Path) -> int:
    """Make C of `directory`/rafter_core; return of how many modules. Raises NotCompiled."""
    return _give_to_mypyc(directory, "-c", TRANSLATE)


def _give_to_mypyc(directory: Path, *program: str) -> int:
    paths = (directory / "rafter_core").rglob("*.py")
    modules = sorted(str(path.relative_to(directory)) for path in paths)
    flags = ("--strict", "--ignore-missing-imports")
    _run([sys.executable, *program, *flags, *modules], directory, COMPILE_SECONDS_MAX)
    return len(modules)


def _copy_package(package: Path, directory: Path) -> None:
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(package, directory / package.name, ignore=ignored)


def _run(command: list[str], directory: Path, seconds_max: int) -> str:
    done = subprocess.run(
        command, cwd=directory, capture_output=True, text=True, timeout=seconds_max, check=False
    )
    if done.returncode:
        lines = (done.stdout + done.stderr).strip().splitlines()
        raise NotCompiled("\n".join(lines[-LINES_OF_AN_ERROR:]))
    return done.stdout


def main() -> None:
    """Say whether the core can be compiled; end with 1 and what mypyc says if it cannot."""
    with tempfile.TemporaryDirectory(prefix="rafter-mypyc-") as name:
        directory = Path(name)
        _copy_package(Path(rafter_core.__file__).parent, directory)
        try:
            print(f"Success: mypyc takes {translate_core(directory)} source files")
        except NotCompiled as error:
            sys.exit(str(error))


if __name__ == "__main__":
    main()
