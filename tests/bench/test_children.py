"""Tests of bench.children."""

from __future__ import annotations

import os

import pytest

from bench.children import Child, Stream


def test_a_child_and_its_parent_tell_each_other_values() -> None:
    def main(stream: Stream) -> None:
        stream.send([os.getpid(), stream.receive()])

    with Child(main) as child:
        child.stream.send({"a": 1.5})
        pid, value = child.stream.receive()
        assert pid != os.getpid()
        assert value == {"a": 1.5}
        with pytest.raises(EOFError):
            child.stream.receive()


def test_a_child_that_waits_ends_with_its_parents_interest() -> None:
    def main(stream: Stream) -> None:
        with pytest.raises(EOFError):
            stream.receive()

    with Child(main):
        pass


def test_a_child_that_fails_is_an_error(capfd: pytest.CaptureFixture[str]) -> None:
    def main(_: Stream) -> None:
        raise ValueError("no good")

    with pytest.raises(RuntimeError, match="process of the measurement failed"), Child(main):
        pass
    assert "no good" in capfd.readouterr().err
