from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from bench import core_compiled


def test_a_missing_compiler_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(core_compiled.NotCompiled, match="there is no C compiler"):
        core_compiled.measure()


@pytest.mark.parametrize("step", [core_compiled.compile_core, core_compiled.translate_core])
def test_what_mypyc_refuses_is_shown(tmp_path: Path, step: Callable[[Path], object]) -> None:
    if reason := core_compiled.missing_tool():
        pytest.skip(reason)
    (tmp_path / "rafter_core").mkdir()
    (tmp_path / "rafter_core" / "__init__.py").write_text('"""M."""\nx: int = "text"\n', "utf-8")
    with pytest.raises(core_compiled.NotCompiled, match="Incompatible types"):
        step(tmp_path)
