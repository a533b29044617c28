"""Processes of the template are processes like others."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests import warm

PROGRAM = "tests.warm_program"
SECONDS_MAX = 60.0


def test_a_process_has_arguments_environment_input_and_output_of_its_own() -> None:
    environment = {"WARM": "yes", "LANG": "C"}
    done = warm.run(PROGRAM, "tell", b"\xff", stdin=b"given", environment=environment)
    assert done.stdout == b"%s\nLANG=C WARM=yes\n\xff\n" % os.fsencode(warm.ROOT)
    assert done.stderr == b"given"
    assert done.returncode == 0


def test_a_process_begins_in_its_directory(tmp_path: Path) -> None:
    path = tmp_path / "output"
    with path.open("wb") as file:
        environment = {"WARM": ""}
        process = warm.start(
            PROGRAM, "tell", stdout=file, environment=environment, directory=tmp_path
        )
        assert process.wait(SECONDS_MAX) == 0
    assert path.read_text().startswith(f"{tmp_path}\n")


@pytest.mark.parametrize("code", [0, 1, 78])
def test_an_exit_code_is_told(code: int) -> None:
    assert warm.run(PROGRAM, "exit", str(code)).returncode == code


def test_an_exception_ends_a_process_as_any_other() -> None:
    done = warm.run(PROGRAM, "raise")
    assert done.returncode == 1
    assert done.stderr.endswith(b"ValueError: said by the child\n")


def test_a_process_has_none_of_the_descriptors_of_others() -> None:
    other = warm.start(PROGRAM, "stay")
    # The three that are its own, and that of the directory it reads.
    assert warm.run(PROGRAM, "descriptors").stdout == b"0 1 2 3"
    other.kill()
    assert other.wait(SECONDS_MAX) == -signal.SIGKILL


def test_a_signal_is_told_and_a_process_that_has_ended_gets_none() -> None:
    process = warm.start(PROGRAM, "stay")
    assert process.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.01)
    process.terminate()
    assert process.wait(SECONDS_MAX) == -signal.SIGTERM
    process.kill()
    assert (process.poll(), process.returncode) == (-signal.SIGTERM, -signal.SIGTERM)
    with pytest.raises(ProcessLookupError):
        os.kill(process.pid, 0)


def test_several_processes_run_at_once() -> None:
    processes = [warm.start(PROGRAM, "stay") for _ in range(3)]
    assert len({process.pid for process in processes}) == 3
    for process in reversed(processes):
        process.kill()
    assert [process.wait(SECONDS_MAX) for process in processes] == [-signal.SIGKILL] * 3


def test_what_takes_too_long_is_ended() -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        warm.run(PROGRAM, "stay", timeout=0.05)
