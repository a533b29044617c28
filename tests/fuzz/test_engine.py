"""The engine, on decoders that fail in each of the ways that it is to find."""

import random
import re
from collections.abc import Callable
from typing import Any

import pytest

from tests.fuzz import __main__ as program
from tests.fuzz.engine import GROWTH_EVERY, Target, run
from tests.fuzz.mutation import pack

SEED = pack([1, 2, b"three", [4, [5]]])
kept: list[bytes] = []


def seeds(_generator: random.Random) -> list[bytes]:
    return [SEED]


def accept(_data: bytes) -> bool:
    return True


def fed(target: Target, inputs: int, seed: int) -> list[bytes]:
    """Return the inputs that a run feeds."""
    found: list[bytes] = []

    def record(data: bytes) -> bool:
        found.append(data)
        return True

    assert run(target._replace(check=record), inputs, seed, lambda _: None)
    return found


def failure_of(check: Callable[[bytes], bool], inputs: int = 2_000, **fields: Any) -> str:
    """Run a decoder that fails, and return what is written about it."""
    written: list[str] = []
    target = Target("bad", seeds, check)._replace(**fields)
    assert not run(target, inputs, 1, written.append)
    return "".join(written)


def test_as_many_inputs_are_fed_as_are_asked_for_seeds_and_hostile_ones_first() -> None:
    found = fed(Target("t", seeds, accept, hostile=(b"hostile",)), 500, 1)
    assert found[:2] == [SEED, b"hostile"]
    assert len(found) == 500
    assert len(set(found)) > 400


@pytest.mark.parametrize("is_msgpack", [True, False])
def test_the_same_seed_feeds_the_same_inputs(is_msgpack: bool) -> None:
    target = Target("t", seeds, accept, is_msgpack=is_msgpack)
    assert fed(target, 200, 1) == fed(target, 200, 1) != fed(target, 200, 2)


def test_what_is_wrapped_is_fed_wrapped_and_sometimes_changed_as_a_whole() -> None:
    def wrap(data: bytes) -> bytes:
        return b"<" + data + b">"

    found = fed(Target("t", seeds, accept, wrap=wrap), 300, 1)
    wrapped = sum(data[:1] == b"<" and data[-1:] == b">" for data in found)
    assert found[0] == wrap(SEED)
    assert 200 <= wrapped < 300


def test_a_good_run_writes_one_line_with_its_counts() -> None:
    written: list[str] = []
    target = Target("t", seeds, lambda data: len(data) % 2 == len(SEED) % 2)
    assert run(target, 1_000, 1, written.append)
    (line,) = written
    assert re.fullmatch(
        r"t: 1,000 inputs, \d+ accepted, none failed; [\d.]+ s, peak \d+ KiB, growth \d+ KiB\n",
        line,
    )


def test_an_error_fails_the_run_with_a_reduced_input() -> None:
    def check(data: bytes) -> bool:
        if b"\xc1" in data[3:]:
            raise IndexError("leaked")
        return True

    text = failure_of(check, hostile=(b"123456789\xc1abcdef",))
    assert text.startswith("bad: FAILED at input 2 of seed 1\n")
    assert "IndexError: leaked" in text
    reduced = re.search(r"bytes\.fromhex\('([0-9a-f]*)'\)", text)
    assert reduced is not None
    assert len(bytes.fromhex(reduced[1])) == 4


def test_a_refused_seed_fails_the_run() -> None:
    assert "a seed was refused" in failure_of(lambda _data: False)


def test_an_input_that_takes_too_long_fails_the_run() -> None:
    def check(data: bytes) -> bool:
        while data == b"hostile":
            try:
                for _ in range(1_000):
                    pass
            except Exception:  # noqa: BLE001 - no decoder may swallow it by accident
                return False
        return True

    text = failure_of(check, hostile=(b"hostile",))
    assert "HangError: took more than" in text
    assert b"hostile".hex() in text


def test_an_input_that_holds_too_much_fails_the_run() -> None:
    def check(data: bytes) -> bool:
        return len(bytearray((64 << 20) if data == b"hostile" else 1)) > 0

    assert "bytes of input held" in failure_of(check, hostile=(b"hostile",))


def test_inputs_that_leave_something_behind_fail_the_run() -> None:
    def check(data: bytes) -> bool:
        kept.append(data.ljust(20_000, b"x"))
        return True

    try:
        assert "the process has grown" in failure_of(check, inputs=4 * GROWTH_EVERY)
    finally:
        kept.clear()


def test_the_program_runs_the_targets_it_is_given_and_prints_a_line_for_each(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert program.main(["--inputs", "300", "--seed", "7", "frames", "handshakes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "seed 7"
    assert [line.partition(":")[0] for line in lines[1:]] == ["frames", "handshakes"]


def test_the_program_fails_if_one_target_does_and_runs_the_others(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    targets = [Target("bad", seeds, lambda _data: False), Target("good", seeds, accept)]
    monkeypatch.setattr(program, "TARGETS", targets)
    assert program.main(["--inputs", "300"]) == 1
    assert "good: 300 inputs" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        program.main(["neither"])
