"""Changes of functions: in force where they should be, undone behind, refused when outdated."""

from __future__ import annotations

import traceback
from collections.abc import Callable

import pytest

from tests.mutants.patching import Change, Outdated, changed

HERE = __name__


def answer() -> int:
    return 40 + 2


def failing() -> None:
    text = "before"
    raise ValueError(text)


class Thing:
    @property
    def size(self) -> int:
        return 1

    def double(self, number: int, *, factor: int = 2) -> int:
        return number * factor


def make_closure() -> Callable[[], int]:
    number = 1

    def inner() -> int:
        return number

    return inner


closure = make_closure()
HANDLERS = {"answer": answer}


def test_a_change_is_in_force_within_its_context_alone() -> None:
    with changed([Change(f"{HERE}:answer", "40", "50")]):
        assert answer() == 52
    assert answer() == 42


def test_a_change_is_undone_after_an_exception() -> None:
    with pytest.raises(KeyError), changed([Change(f"{HERE}:answer", "40", "50")]):
        raise KeyError
    assert answer() == 42


def test_whoever_holds_the_function_runs_the_changed_one() -> None:
    with changed([Change(f"{HERE}:answer", "+", "-")]):
        assert HANDLERS["answer"]() == 38


def test_methods_and_properties_can_be_changed() -> None:
    thing = Thing()
    changes = [
        Change(f"{HERE}:Thing.size", "return 1", "return 7"),
        Change(f"{HERE}:Thing.double", "number *", "1 + number *"),
    ]
    with changed(changes):
        assert (thing.size, thing.double(2), thing.double(2, factor=5)) == (7, 5, 11)
    assert (thing.size, thing.double(2)) == (1, 4)


def test_tracebacks_show_the_lines_of_the_file() -> None:
    def line() -> int | None:
        try:
            failing()
        except ValueError as error:
            return traceback.extract_tb(error.__traceback__)[-1].lineno
        return None

    with changed([Change(f"{HERE}:failing", '"before"', '"behind"')]):
        seen = line()
    assert seen == line()


@pytest.mark.parametrize(
    ("target", "old"),
    [
        ("answer", "41"),
        ("failing", "text"),
        ("nothing", "40"),
        ("Thing", "return 1"),
        ("closure", "number"),
    ],
    ids=["text that is gone", "text that is there twice", "no function", "a class", "a closure"],
)
def test_what_the_product_has_not_got_is_outdated(target: str, old: str) -> None:
    with pytest.raises(Outdated), changed([Change(f"{HERE}:{target}", old, "1")]):
        pass


def test_nothing_is_changed_if_one_change_of_several_is_outdated() -> None:
    changes = [Change(f"{HERE}:answer", "40", "50"), Change(f"{HERE}:answer", "44", "50")]
    with pytest.raises(Outdated), changed(changes):
        pass
    assert answer() == 42


def test_two_changes_of_one_function_are_refused() -> None:
    changes = [Change(f"{HERE}:answer", "40", "50"), Change(f"{HERE}:answer", "+", "-")]
    with pytest.raises(Outdated, match="two changes"), changed(changes):
        pass
    assert answer() == 42
