from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bench import core_compiled

PACKAGE = Path(core_compiled.__file__).parents[1] / "rafter_core"

# Makes C of the modules and does not compile it, so that no compiler is needed.
TRANSLATE = """
import sys
from mypyc.build import mypycify
mypycify(["--strict", "--ignore-missing-imports", *sys.argv[1:]])
"""


@pytest.mark.long
def test_mypyc_accepts_every_module_of_the_core(tmp_path: Path) -> None:
    pytest.importorskip("mypyc", reason="mypyc is not installed")
    pytest.importorskip("setuptools", reason="setuptools are not installed")
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(PACKAGE, tmp_path / "rafter_core", ignore=ignored)
    modules = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.py"))
    done = subprocess.run(
        [sys.executable, "-c", TRANSLATE, *modules],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_missing_compiler_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(core_compiled.NotCompiled, match="there is no C compiler"):
        core_compiled.measure()


def test_what_mypyc_refuses_is_shown(tmp_path: Path) -> None:
    if reason := core_compiled.missing_tool():
        pytest.skip(reason)
    (tmp_path / "rafter_core").mkdir()
    (tmp_path / "rafter_core" / "__init__.py").write_text('"""M."""\nx: int = "text"\n', "utf-8")
    with pytest.raises(core_compiled.NotCompiled, match="Incompatible types"):
        core_compiled.compile_core(tmp_path)
