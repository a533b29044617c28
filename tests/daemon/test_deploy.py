"""The systemd unit, as systemd itself judges it."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

UNIT = Path(__file__).parents[2] / "deploy" / "rafterd.service"

needs_systemd_analyze = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed"
)


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", *arguments], capture_output=True, text=True, check=False
    )


@needs_systemd_analyze
def test_the_unit_is_verified_without_a_word(tmp_path: Path) -> None:
    text = UNIT.read_text(encoding="utf-8")
    assert text.count("ExecStart=/opt/rafter/bin/rafterd ") == 1
    copy = tmp_path / UNIT.name
    copy.write_text(text.replace("/opt/rafter/bin/rafterd", sys.executable), encoding="utf-8")
    result = analyze("verify", str(copy))
    assert (result.returncode, result.stdout + result.stderr) == (0, "")


@needs_systemd_analyze
def test_the_unit_is_hardened() -> None:
    result = analyze("security", "--offline=true", "--threshold=20", str(UNIT))
    exposure = re.search(r"Overall exposure level for \S+: ([0-9.]+)", result.stdout)
    assert exposure is not None, result.stdout + result.stderr
    assert float(exposure[1]) <= 2.0
    assert result.returncode == 0


def test_the_unit_notifies_and_runs_as_a_user_of_its_own() -> None:
    lines = UNIT.read_text(encoding="utf-8").splitlines()
    for line in ("Type=notify", "DynamicUser=yes", "StateDirectory=rafterd", "KillMode=mixed"):
        assert line in lines
