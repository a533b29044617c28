"""Sabotage: it reaches the processes that are started, and nothing else. That it is found out is
for real rounds to show: `python -m tests.nemesis --sabotage NAME`.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rafter_core.raw_node import RawNode
from rafter_kv.machine import KeyValueMachine
from rafter_kv.sessions import Sessions
from tests.nemesis.sabotage import SABOTAGES, sabotaged

METHODS = {
    "stale-reads": RawNode.read_index,
    "double-writes": Sessions.admit,
    "forgotten-writes": KeyValueMachine.update,
}


def where(function: object) -> str:
    """Return, from a Python of its own, the file that a method comes from."""
    name = f"{function.__module__}:{function.__qualname__}"  # type: ignore[attr-defined]
    program = (
        "import importlib, sys\n"
        "module, path = sys.argv[1].split(':')\n"
        "found = importlib.import_module(module)\n"
        "for part in path.split('.'): found = getattr(found, part)\n"
        "print(found.__code__.co_filename)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, name], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.mark.parametrize("name", SABOTAGES)
def test_a_sabotaged_process_has_another_method(name: str, tmp_path: Path) -> None:
    with sabotaged(name, tmp_path):
        assert where(METHODS[name]) == str(tmp_path / "sitecustomize.py")
    assert where(METHODS[name]).endswith(f"{METHODS[name].__module__.replace('.', '/')}.py")


def test_without_a_name_nothing_is_changed(tmp_path: Path) -> None:
    before = dict(os.environ)
    with sabotaged("", tmp_path / "none"):
        assert dict(os.environ) == before
    assert not (tmp_path / "none").exists()
