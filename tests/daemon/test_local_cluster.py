import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rafterd.config import load_config
from rafterd.local_cluster import LINE_BYTES_MAX, LocalCluster, LocalNode, greeting, write_config


@pytest.mark.parametrize("shards", [1, 16])
def test_the_written_configurations_form_one_cluster(tmp_path: Path, shards: int) -> None:
    configs = [
        load_config(write_config(tmp_path, number, shards, 7379)).config for number in (1, 2, 3)
    ]
    assert len({config.cluster_id for config in configs}) == 1
    assert [config.node.id for config in configs] == [1, 2, 3]
    assert [config.client.port for config in configs] == [7379, 7479, 7579]
    assert [config.http.port for config in configs] == [9379, 9479, 9579]
    assert len({config.node.data_dir for config in configs}) == 3


def test_a_directory_with_quotes_is_written_as_toml(tmp_path: Path) -> None:
    directory = tmp_path / 'it\'s "quoted"'
    directory.mkdir()
    config = load_config(write_config(directory, 1, 1, 7379)).config
    assert config.node.data_dir == str(directory / "n1")


def test_the_greeting_names_ports_and_commands() -> None:
    text = greeting(7379)
    assert "clients on 7379, 7479, 7579" in text
    assert "--endpoints 127.0.0.1:7379,127.0.0.1:7479,127.0.0.1:7579 status" in text


def test_lines_are_put_together_from_pieces(tmp_path: Path) -> None:
    node = LocalNode(1, tmp_path)
    assert node.lines(b"one\ntw") == ["one"]
    assert node.lines(b"o\n\xff\n") == ["two", "\ufffd"]
    assert node.lines(b"x" * (LINE_BYTES_MAX + 1)) == ["x" * (LINE_BYTES_MAX + 1)]
    assert node.lines(b"rest") == []
    assert node.lines(b"") == ["rest"]


class ScriptNode(LocalNode):
    """A node whose process is a few lines of Python, which can type on the keyboard."""

    def __init__(self, number: int, fifo: Path, script: str) -> None:
        super().__init__(number, fifo)
        self.script = script

    def command(self) -> list[str]:
        return [sys.executable, "-u", "-c", PRELUDE + self.script, str(self.config_path)]


PRELUDE = """
import os, pathlib, signal, sys

fifo = pathlib.Path(sys.argv[1])
pid_file = fifo.with_suffix(".pid")

def type(line):
    fifo.write_text(line + "\\n")

def wait_for_sigterm():
    signal.sigwait({signal.SIGTERM})
    print("bye")
    sys.exit(0)

# Blocked from the start, so that one that comes before the wait is not lost.
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
print("up")
"""

DIES_ONCE = """
is_first = not pid_file.exists()
pid_file.write_text(str(os.getpid()))
type("kill 1" if is_first else "quit")
wait_for_sigterm()
"""

RESTARTS_NODE_ONE = """
import time
while not (pid_file.exists() and pid_file.read_text()):
    time.sleep(0.01)
pid = pid_file.read_text()
while os.path.exists("/proc/" + pid):
    time.sleep(0.01)
type("start 1")
wait_for_sigterm()
"""


Run = Callable[..., tuple[int, list[str]]]


@pytest.fixture
def run(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """Run a cluster of scripts; return (exit code, lines)."""
    fifo = tmp_path / "keyboard"
    os.mkfifo(fifo)
    keyboard = os.open(fifo, os.O_RDWR)

    def run(*scripts: str) -> tuple[int, list[str]]:
        nodes: list[LocalNode] = [
            ScriptNode(number, fifo, script) for number, script in enumerate(scripts, 1)
        ]
        status = LocalCluster(nodes).run(keyboard)
        return status, capfd.readouterr().out.splitlines()

    yield run
    os.close(keyboard)


def test_quit_stops_every_node_in_order(run: Run) -> None:
    status, lines = run("type('quit')\nwait_for_sigterm()", "wait_for_sigterm()")
    assert status == 0
    for number in (1, 2):
        assert f"[{number}] ended with status 0" in lines or (
            f"[{number}] ended with status -15" in lines
        )


def test_a_node_can_be_killed_and_started_again(run: Run) -> None:
    status, lines = run(DIES_ONCE, RESTARTS_NODE_ONE)
    assert status == 0
    assert "[1] ended with status -9" in lines
    assert lines.count("[1] up") == 2
    assert "[1] bye" in lines


def test_the_end_of_the_last_node_ends_the_cluster_with_an_error(run: Run) -> None:
    status, lines = run("sys.exit(2)", "sys.exit(1)")
    assert status == 1
    assert "[1] ended with status 2" in lines


def test_an_unknown_command_says_what_can_be_typed(run: Run) -> None:
    status, lines = run(
        "type('help')\ntype('kill 9')\ntype('start 1')\ntype('stop 1')\nwait_for_sigterm()"
    )
    assert status == 1, "the last node ended without a quit"
    assert lines.count("kill N, stop N, start N (N is 1, 2 or 3), or quit") == 2
    assert "node 1 runs already" in lines


def test_sigterm_stops_the_cluster(run: Run) -> None:
    status, lines = run(f"os.kill({os.getpid()}, signal.SIGTERM)\nwait_for_sigterm()")
    assert status == 0
    assert "[1] bye" in lines
