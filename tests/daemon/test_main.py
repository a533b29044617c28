import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from rafterd import __version__
from rafterd.main import main

ROOT = Path(__file__).parents[2]


def run(*arguments: str, env: dict[str, str] | None = None) -> Result:
    return CliRunner().invoke(main, arguments, env=env or {}, prog_name="rafterd")


def test_the_version_is_the_packages() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["version"] == __version__
    assert run("--version").output == f"rafterd, version {__version__}\n"


def test_config_check_accepts_the_example_of_deploy() -> None:
    path = ROOT / "deploy" / "rafterd.toml"
    result = run("config", "check", str(path))
    assert (result.exit_code, result.output) == (0, f"{path}: ok\n")


def test_config_check_looks_at_the_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "good.toml"
    path.write_text("[node]\nid = 3\n")
    assert run("config", "check", str(path), env={"RAFTERD_NODE__ID": "x"}).exit_code == 0


def test_a_wrong_configuration_exits_with_two_and_names_everything(tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text('[node]\nid = 0\n[log]\nlevel = "x"\n')
    for arguments in (("config", "check", str(path)), ("--config", str(path))):
        result = run(*arguments)
        assert result.exit_code == 2
        lines = result.output.splitlines()
        assert len(lines) == 2
        assert lines[0].startswith(f"rafterd: {path}:2: node.id: found 0; allowed:")


def test_config_show_prints_what_is_in_effect(tmp_path: Path) -> None:
    path = tmp_path / "node.toml"
    path.write_text("[node]\nid = 3\nshards = 2\n")
    arguments = ("config", "show", "--config", str(path), "--set", "log.level=debug")
    result = run(*arguments, env={"RAFTERD_NODE__DRAIN_SECONDS": "1"})
    shown = tomllib.loads(result.output)
    assert shown["node"]["id"] == 3
    assert shown["node"]["drain_seconds"] == 1.0
    assert shown["log"]["level"] == "debug"
    assert f"id = 3  # {path}:2" in result.output


@pytest.mark.parametrize("assignment", ["node.id", "id=3", "=3"])
def test_a_malformed_assignment_is_a_usage_error(assignment: str) -> None:
    result = run("config", "show", "--set", assignment)
    assert result.exit_code == 2
    assert "write SECTION.KEY=VALUE" in result.output


def test_options_before_a_command_are_refused_instead_of_ignored() -> None:
    assert run("--node-id", "3", "config", "show").exit_code == 2


def test_flags_reach_their_keys() -> None:
    result = run("--node-id", "0", "--client-listen", "x", "--set", "raft.heartbeat_ticks=0")
    assert result.exit_code == 2
    keys = re.findall(r"rafterd: command line: (\S+): found", result.output)
    assert keys == ["node.id", "raft.heartbeat_ticks"]


def test_the_supervisor_side_loads_no_event_loop() -> None:
    code = (
        "import sys, rafterd.main, rafterd.node\n"
        "print(sorted({'asyncio', 'uvloop', 'rafterd.shard'} & set(sys.modules)))\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert result.stdout == "[]\n"
