"""The search for an order of one key's operations that explains them: Wing and Gong's, by Lowe.

Invocations and completions stand in a doubly linked list, by time. The search walks it from the
front. At an invocation it tries to give the operation the next place in the order; if the answer
fits, both entries leave the list and the walk starts again. At a completion it is stuck, for the
operation had to happen before: it takes the last placed operation back and walks on from there.
What has been reached (which operations are placed, and the state) is never searched twice.

Four rules leave out what cannot help, each by an argument about any order of what is left:

- An operation that has no effect wherever it fits (a read, a `cas` that said no) is placed as soon
  as it fits, and for good: in an order where it comes later, it may as well come now.
- A value that one operation alone writes does not come back. It is not replaced before all that
  saw it are placed.
- Where the walk is stuck, and the answer of an operation without a place is past (a counter that
  only grows has outgrown it), no open operation is tried.
- What was reached is not searched again with more open operations placed, and no other difference:
  any order that leads on from there leads on from where it was reached.

What was asked over one connection and answered has its place in the order in which it was asked: at
an invocation whose predecessor has no place yet, the walk goes on.

Operations without a deadline (`unknown.narrow`) are *open*: they have no completion, and need no
place. They are not in the list but tried where the walk is stuck: most of them are not needed.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tests.linear.history import Operation, Outcome
from tests.linear.marks import READS, Mark, are_overwrites, marks_seen, marks_written_once
from tests.linear.models import UNTOLD, Model
from tests.linear.unknown import Narrowed, narrow


class Verdict(enum.Enum):
    """What the search found."""

    OK = "ok"
    VIOLATION = "violation"
    UNDECIDED = "undecided"  # The steps were used up first. It proves nothing: a failure.


@dataclass(frozen=True, slots=True)
class Result:
    """The verdict on one key, and what it rests on."""

    verdict: Verdict
    steps: int
    prefix: tuple[Operation, ...] = ()
    """Unless OK: an order of operations that explains them, and gets furthest in time."""
    state: Any = None
    """The state after the prefix."""
    stuck: tuple[Operation, ...] = ()
    """The operations with no place after the prefix; the first had to have one by its end.

    Among them are later ones that saw the state's value, if it is not written again.
    """


def search(operations: Sequence[Operation], model: Model, steps_max: int) -> Result:
    """Search an order of these operations, all of one key, in at most so many calls of the model.

    Raises HistoryError if an operation is not the model's.
    """
    return _Search(operations, model).run(steps_max)


# Where a search stands: all bounded operations below the first number are placed, and those of the
# bits of the second, which begin at the first; the open ones of the bits of the third; the state.
# A window of bits stays short, however long the history is.
_Position = tuple[int, int, int, Any]


class _Search:
    """Bounded operations have the numbers from 0, by invocation, and open ones those after them.

    The entries of the list have numbers in the order of time, from 1; 0 is both ends of the list.
    """

    def __init__(self, operations: Sequence[Operation], model: Model) -> None:
        model = model.for_history(operations)
        narrowed = sorted(
            narrow(operations, model.marks(model.initial)), key=lambda one: one.operation.invoked
        )
        bounded = [one for one in narrowed if one.deadline is not None]
        opened = [one for one in narrowed if one.deadline is None]
        self.operations = [one.operation for one in bounded + opened]
        self.arguments = [one.arguments for one in bounded + opened]
        self.bounded_count = len(bounded)
        self.model = model
        self.observed = [model.observed(one) for one in self.operations]
        self.never_acts = [
            one.kind in READS or observed is False
            for one, observed in zip(self.operations, self.observed, strict=True)
        ]
        self.predecessors = _predecessors(self.operations[: len(bounded)])
        self.twins = _twins(opened)
        self.witnesses = _witnesses(self.operations, model)

        # Intervals that touch are concurrent: at one time, invocations come first.
        moments = [(2 * one.operation.invoked, index) for index, one in enumerate(bounded)]
        moments += [
            (2 * one.deadline + 1, ~index)
            for index, one in enumerate(bounded)
            if one.deadline is not None
        ]
        moments.sort()
        self.moment = [0, *(moment for moment, _ in moments)]
        self.owner = [0, *(index for _, index in moments)]
        """The operation that an entry invokes, or the complement of the one that it completes."""
        self.entry_of_call = [0] * len(bounded)
        self.entry_of_return = [0] * len(bounded)
        for entry in range(1, len(self.owner)):
            index = self.owner[entry]
            if index < 0:
                self.entry_of_return[~index] = entry
            else:
                self.entry_of_call[index] = entry
        self.following = [*range(1, len(self.owner)), 0]
        self.preceding = [len(self.owner) - 1, *range(len(self.owner) - 1)]

        self.position: _Position = (0, 0, 0, model.initial)
        self.entry = self.following[0]
        """Where the walk is."""
        self.next_open = self.bounded_count
        """The open operation to try next, once the walk is stuck."""
        self.reached: dict[tuple[int, int, Any], list[int]] = {(0, 0, model.initial): [0]}
        """Where the search has been: sets of open operations, by the rest of the position.

        Of two sets of which one has all of the other, the smaller is kept.
        """
        self.placed: list[tuple[int, int, _Position]] = []
        """The order so far: each operation, with the entry and the position it was placed at."""
        self.furthest = 0
        """The last entry where the walk was stuck, and the order it was stuck with."""
        self.furthest_order: list[int] = []
        self.furthest_state: Any = model.initial

    def run(self, steps_max: int) -> Result:
        steps = 0
        following, owner = self.following, self.owner
        while following[0]:
            index = owner[self.entry]
            if index < 0:
                index = self._find_open()
            if index < 0:
                if not self._take_back():
                    return self._failure(Verdict.VIOLATION, steps)
                continue
            if self._is_early(index):
                self._walk_on(index)
                continue
            if steps == steps_max:
                return self._failure(Verdict.UNDECIDED, steps)
            steps += 1
            position = self._position_after(index)
            if position is None or self._is_known(position) or self._loses_what_is_needed(position):
                self._walk_on(index)
            else:
                self._place(index, position)
        return Result(Verdict.OK, steps)

    def _is_early(self, index: int) -> bool:
        """Tell whether its connection was asked before for something that has no place yet."""
        if index >= self.bounded_count:
            return False
        before = self.predecessors[index]
        low, window, _, _ = self.position
        return before >= low and not window >> (before - low) & 1

    def _find_open(self) -> int:
        """Return the next open operation that could come before this completion, or -1."""
        _, _, opened, state = self.position
        if self._is_any_past(state):
            return -1
        moment = self.moment[self.entry]
        for index in range(self.next_open, len(self.operations)):
            if 2 * self.operations[index].invoked > moment:
                break
            twin = self.twins[index - self.bounded_count]
            if not opened >> (index - self.bounded_count) & 1 and (twin < 0 or opened >> twin & 1):
                return index
        return -1

    def _is_any_past(self, state: Any) -> bool:
        """Tell whether an operation that has begun, and needs a place, cannot have one any more."""
        entry = self.following[0]
        while entry <= self.entry:
            index = self.owner[entry]
            if index >= 0 and self.model.is_past(state, self.operations[index]):
                return True
            entry = self.following[entry] or len(self.owner)
        return False

    def _position_after(self, index: int) -> _Position | None:
        """Return the position with this operation placed next; None if it does not fit there."""
        low, window, opened, state = self.position
        applied = self.model.apply(state, self.operations[index].kind, self.arguments[index])
        if applied is None:
            return None
        next_state, answer = applied
        observed = self.observed[index]
        if observed is not UNTOLD and observed != answer:
            return None
        if index >= self.bounded_count:
            # Without effect it need not have happened: this is the position we have.
            opened |= 1 << (index - self.bounded_count)
            return self.position if next_state == state else (low, window, opened, next_state)
        window |= 1 << (index - low)
        while window & 1:
            window >>= 1
            low += 1
        return low, window, opened, next_state

    def _is_known(self, position: _Position) -> bool:
        """Tell whether the search was here, with no other open operations placed, or fewer."""
        low, window, opened, state = position
        return any(not few & ~opened for few in self.reached.get((low, window, state), ()))

    def _loses_what_is_needed(self, position: _Position) -> bool:
        """Tell whether a value was replaced that operations without a place yet have seen."""
        low, window, _, state = position
        if not self.witnesses or state == self.position[3]:
            return False
        kept = set(self.model.marks(state))
        return any(
            index >= low and not window >> (index - low) & 1
            for mark in self.model.marks(self.position[3])
            if mark not in kept
            for index in self.witnesses.get(mark, ())
        )

    def _place(self, index: int, position: _Position) -> None:
        low, window, opened, state = position
        known = self.reached.setdefault((low, window, state), [])
        known[:] = [many for many in known if opened & ~many]
        known.append(opened)
        self.placed.append((index, self.entry, self.position))
        self.position = position
        if index < self.bounded_count:
            for entry in (self.entry_of_call[index], self.entry_of_return[index]):
                before, after = self.preceding[entry], self.following[entry]
                self.following[before], self.preceding[after] = after, before
        self.entry = self.following[0]
        self.next_open = self.bounded_count

    def _take_back(self) -> bool:
        """Take the last operation that acts out of the order, and walk on behind it.

        Return whether there was one.
        """
        if self.entry > self.furthest:
            self.furthest = self.entry
            self.furthest_order = [index for index, _, _ in self.placed]
            self.furthest_state = self.position[3]
        while self.placed:
            index, self.entry, self.position = self.placed.pop()
            if index < self.bounded_count:
                for entry in (self.entry_of_return[index], self.entry_of_call[index]):
                    before, after = self.preceding[entry], self.following[entry]
                    self.following[before] = self.preceding[after] = entry
            if not self.never_acts[index]:
                self._walk_on(index)
                return True
        return False

    def _walk_on(self, index: int) -> None:
        if index < self.bounded_count:
            self.entry = self.following[self.entry]
            self.next_open = self.bounded_count
        else:
            self.next_open = index + 1

    def _failure(self, verdict: Verdict, steps: int) -> Result:
        order = set(self.furthest_order)
        first = ~self.owner[self.furthest] if self.furthest else -1
        needing = {
            index
            for mark in self.model.marks(self.furthest_state)
            for index in self.witnesses.get(mark, ())
        }
        stuck = [
            index
            for index in range(self.bounded_count)
            if index not in order
            and (self.entry_of_call[index] < self.furthest or index in needing)
        ]
        stuck.sort(key=lambda index: (index != first, index))
        return Result(
            verdict,
            steps,
            prefix=tuple(self.operations[index] for index in self.furthest_order),
            state=self.furthest_state,
            stuck=tuple(self.operations[index] for index in stuck),
        )


def _predecessors(operations: Sequence[Operation]) -> list[int]:
    """Return for each known operation the one that its connection was asked for before it, or -1.

    They are in the order of invocation. What was asked at one moment has no order among itself; and
    what is unknown may come late, when the connection is long gone.
    """
    newest: dict[int, int] = {}
    found: list[int] = []
    for index, one in enumerate(operations):
        before = -1
        if one.outcome is Outcome.OK:
            before = newest.get(one.connection, -1)
            while before >= 0 and operations[before].invoked == one.invoked:
                before = found[before]
            newest[one.connection] = index
        found.append(before)
    return found


def _twins(opened: Sequence[Narrowed]) -> list[int]:
    """Return for each open operation the last one before it that is the same, or -1.

    Of two that do the same, the earlier invoked may always be the one that comes first: wherever
    the later one fits, it fits too.
    """
    last: dict[tuple[str, tuple[Any, ...]], int] = {}
    twins = []
    for number, one in enumerate(opened):
        same = (one.operation.kind, one.arguments)
        twins.append(last.get(same, -1))
        last[same] = number
    return twins


def _witnesses(operations: Sequence[Operation], model: Model) -> dict[Mark, list[int]]:
    """Return the known operations that saw a mark, for each mark that is never there twice."""
    witnesses: dict[Mark, list[int]] = {}
    if are_overwrites(operations):
        once = marks_written_once(operations, model.marks(model.initial))
        for index, operation in enumerate(operations):
            if operation.outcome is Outcome.OK:
                for mark in marks_seen(operation):
                    if mark in once:
                        witnesses.setdefault(mark, []).append(index)
    return witnesses
