from __future__ import annotations

from collections.abc import Callable

import pytest

from rafter_core import serializer
from rafter_core.errors import DecodeError
from tests.core import fuzz_serializer
from tests.core.fuzz_serializer import BATCH_INPUTS, FAMILIES, Family, feed, fuzz, main


def test_a_few_thousand_inputs_break_nothing() -> None:
    written: list[str] = []
    assert fuzz(3_000, 1, written.append), "".join(written)
    assert len(written) == 2 + len(FAMILIES)
    assert int(written[-1].split()[0].replace(",", "")) >= 3_000


def test_the_shares_of_the_families_make_a_whole() -> None:
    assert sum(family.share for family in FAMILIES) == 100


def test_inputs_are_fed_in_batches_until_they_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzz_serializer, "BATCH_INPUTS", 10)
    assert BATCH_INPUTS > 10
    for family in FAMILIES[:2]:
        assert feed(family, 25, 1).inputs >= 25


@pytest.mark.parametrize("family", FAMILIES[:3], ids=lambda family: family.name)
def test_the_same_seed_feeds_the_same_inputs(family: Family) -> None:
    def fed(seed: int) -> list[object]:
        inputs: list[object] = []

        def refuse(value: object) -> bool:
            inputs.append(value)
            return False

        assert feed(family._replace(check=refuse), 20, seed).accepted == 0
        return inputs

    assert fed(1) == fed(1) != fed(2)


def test_what_comes_back_is_accepted_and_most_of_what_was_changed_is_not() -> None:
    for family in FAMILIES:
        count = feed(family, 30, 1)
        if "there and back" in family.name:
            assert count.accepted == count.inputs
        else:
            assert count.accepted < count.inputs


def _leak(function: Callable[[bytes], object]) -> Callable[[bytes], object]:
    def leaking(data: bytes) -> object:
        try:
            return function(data)
        except DecodeError as error:
            if "extra data" in str(error):
                raise IndexError("leaked") from error
            raise

    return leaking


def test_an_error_of_another_kind_fails_the_run_with_a_reduced_example(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(serializer, "unpack_entries", _leak(serializer.unpack_entries))
    assert main(["--inputs", "500", "--seed", "7"]) == 1
    output = capsys.readouterr().out
    assert "random bytes: FAILED" in output
    assert "IndexError: leaked" in output
    assert "value=b'\\x00\\x00'" in output
    assert "--inputs 500 --seed 7" in output


def test_a_changed_value_fails_the_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(serializer, "pack_entries", lambda entries: b"\x90")
    assert main(["--inputs", "500", "--seed", "1"]) == 1
    assert "entries" in capsys.readouterr().out


def test_the_program_writes_what_it_fed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--inputs", "100"]) == 0
    output = capsys.readouterr().out
    assert output.startswith("seed ")
    assert all(family.name in output for family in FAMILIES)
    assert "none failed" in output
