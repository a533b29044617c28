"""Checks of histories whose cost is about that of reading them: they cannot blow up.

Each finds some violations of linearizability, and nothing else: a history they have nothing
against may still be wrong. They take every key for absent at first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping
from typing import Any

from tests.linear.cycles import cycles
from tests.linear.findings import Violation
from tests.linear.history import History, Operation, Outcome
from tests.linear.lists import AppendedList, appended_lists
from tests.linear.marks import (
    Mark,
    are_overwrites,
    marks_seen,
    marks_written,
    may_have_happened,
)

__all__ = [
    "Violation",
    "backward_reads",
    "check_all",
    "cycles",
    "diverged_replicas",
    "lost_writes",
    "miscounts",
    "phantom_reads",
]

_FOREVER = float("inf")


def check_all(history: History, final: Mapping[str, Any] | None = None) -> list[Violation]:
    """Run all checks of a history; `final` holds values read when all operations had ended."""
    final = final or {}
    return [
        *lost_writes(history, final),
        *phantom_reads(history),
        *backward_reads(history),
        *miscounts(history, final),
        *cycles(history),
    ]


# ---- (a) every acknowledged write is final, or was overwritten ---------------------------------


def lost_writes(history: History, final: Mapping[str, Any]) -> list[Violation]:
    """Report acknowledged writes that nothing after or beside them explains the absence of.

    `final` holds the value of each key to check once all operations have ended: bytes or None; for
    a partition a mapping of its sub-keys to such. Append lists and counters: see `miscounts`.
    """
    found: list[Violation] = []
    for key, operations in history.by_key().items():
        if key in final and are_overwrites(operations):
            values = final[key] if isinstance(final[key], Mapping) else {None: final[key]}
            for sub_key, writes in _writes_by_sub_key(operations).items():
                where = repr(key) if sub_key is None else f"{key!r}, {sub_key!r}"
                found += _lost_writes_of(where, writes, values.get(sub_key))
    return found


def _writes_by_sub_key(operations: list[Operation]) -> dict[Any, list[tuple[Operation, Any]]]:
    writes: dict[Any, list[tuple[Operation, Any]]] = {}
    for operation in operations:
        if may_have_happened(operation):
            for sub_key, value in _values_set(operation):
                writes.setdefault(sub_key, []).append((operation, value))
    return writes


def _values_set(operation: Operation) -> Iterable[Mark]:
    if operation.kind == "delete":
        return [(operation.arguments[0] if operation.arguments else None, None)]
    return marks_written(operation)


def _lost_writes_of(
    where: str, writes: list[tuple[Operation, Any]], final: bytes | None
) -> Iterator[Violation]:
    ends = [_end(operation) for operation, value in writes if value == final]
    known = [(operation, value) for operation, value in writes if operation.outcome is Outcome.OK]
    if not ends and final is not None:
        yield Violation("lost write", f"key {where}: nobody wrote the final value {final!r}")
        return
    # Absent at first is as good as deleted before everything else.
    last_end = max(ends, default=-_FOREVER)
    for operation, value in known:
        if value != final and operation.invoked > last_end:
            yield Violation(
                "lost write",
                f"key {where} ends as {final!r}, which nothing wrote after {operation}",
            )


def _end(operation: Operation) -> float:
    return _FOREVER if operation.completed is None else operation.completed


# ---- (b) a value that was read was written -----------------------------------------------------


def phantom_reads(history: History) -> list[Violation]:
    """Report values seen that no operation invoked by then can have written."""
    found: list[Violation] = []
    for key, operations in history.by_key().items():
        if are_overwrites(operations):
            found += _phantom_values(key, operations)
    for appended in appended_lists(history):
        found += _phantom_tokens(appended)
    return found


def _phantom_values(key: str, operations: list[Operation]) -> Iterator[Violation]:
    first_written: dict[Mark, int] = {}
    for operation in filter(may_have_happened, operations):
        for mark in marks_written(operation):
            invoked = first_written.get(mark, operation.invoked)
            first_written[mark] = min(invoked, operation.invoked)
    for operation in operations:
        if operation.outcome is Outcome.OK:
            for mark in marks_seen(operation):
                if first_written.get(mark, _FOREVER) > _end(operation):
                    yield Violation(
                        "phantom read", f"key {key!r}: nobody had written {mark[1]!r}: {operation}"
                    )


def _phantom_tokens(appended: AppendedList) -> Iterator[Violation]:
    invoked = sorted(
        (append.invoked, token)
        for token, append in appended.appends.items()
        if append.outcome is not Outcome.FAILED
    )
    possible: set[bytes] = set()
    for read, value in sorted(appended.reads, key=lambda pair: _end(pair[0])):
        while len(possible) < len(invoked) and invoked[len(possible)][0] <= _end(read):
            possible.add(invoked[len(possible)][1])
        tokens = appended.split(value)
        if tokens is None:
            text = "nobody appended such bytes"
        elif not possible.issuperset(tokens):
            token = next(token for token in tokens if token not in possible)
            text = f"nobody had appended {token!r}"
        else:
            continue
        yield Violation("phantom read", f"list {appended.name}: {text}: {read}")


# ---- (c) nobody sees a counter or a list go back -----------------------------------------------


def backward_reads(history: History) -> list[Violation]:
    """Report answers to a client about what only grows that are below earlier ones to it."""
    found: list[Violation] = []
    for key, operations in history.by_key().items():
        adds = [operation for operation in operations if operation.kind == "add"]
        if adds and all(add.arguments[0] >= 0 for add in adds):
            for client in _by_client(operations):
                found += _going_back(key, client)
    for appended in appended_lists(history):
        clients: dict[int, list[tuple[Operation, bytes]]] = {}
        for read, value in appended.reads:
            clients.setdefault(read.client, []).append((read, value))
        for reads in clients.values():
            found += _changing_lists(appended, reads)
    return found


def _by_client(operations: Iterable[Operation]) -> Iterable[list[Operation]]:
    """Return the known operations of each client."""
    clients: dict[int, list[Operation]] = {}
    for operation in operations:
        if operation.outcome is Outcome.OK:
            clients.setdefault(operation.client, []).append(operation)
    return clients.values()


def _going_back(key: str, operations: list[Operation]) -> Iterator[Violation]:
    by_end = sorted(operations, key=_end)
    seen, position = 0, 0
    for operation in sorted(operations, key=lambda one: one.invoked):
        while _end(by_end[position]) < operation.invoked:
            seen = max(seen, by_end[position].result or 0)
            position += 1
        before = (operation.result or 0) - sum(operation.arguments)
        if before < seen:
            yield Violation(
                "backward read", f"key {key!r}: this client had been told {seen}: {operation}"
            )


def _changing_lists(
    appended: AppendedList, reads: list[tuple[Operation, bytes]]
) -> Iterator[Violation]:
    by_end = sorted(reads, key=lambda pair: _end(pair[0]))
    seen = b""
    position = 0
    for read, value in reads:
        while _end(by_end[position][0]) < read.invoked:
            seen = max(seen, by_end[position][1], key=len)
            position += 1
        if not value.startswith(seen):
            yield Violation(
                "backward read",
                f"list {appended.name}: this client had read {seen!r}: {read}",
            )


# ---- (d) everything counts exactly once --------------------------------------------------------


def miscounts(history: History, final: Mapping[str, Any] | None = None) -> list[Violation]:
    """Report tokens that are in a list twice, or missing after their append; and wrong sums.

    `final` holds the value of each key to check once all operations have ended: a counter's number,
    a list's bytes, a mapping of them for a partition's sub-keys.
    """
    final = final or {}
    found: list[Violation] = []
    for key, operations in history.by_key().items():
        adds = [operation for operation in operations if operation.kind == "add"]
        if adds and key in final:
            found += _wrong_sum(key, adds, final[key] or 0)
    for appended in appended_lists(history):
        views: list[tuple[float, bytes, Any]] = [
            (read.invoked, value, read) for read, value in appended.reads
        ]
        if appended.key in final:
            last = final[appended.key]
            last = last.get(appended.sub_key) if isinstance(last, Mapping) else last
            views.append((_FOREVER, last or b"", f"at the end {last!r}"))
        found += _miscounted_tokens(appended, views)
    return found


def _wrong_sum(key: str, adds: list[Operation], final: int) -> Iterator[Violation]:
    known = sum(add.arguments[0] for add in adds if add.outcome is Outcome.OK)
    unknown = [add.arguments[0] for add in adds if add.outcome is Outcome.UNKNOWN]
    lowest = known + sum(delta for delta in unknown if delta < 0)
    highest = known + sum(delta for delta in unknown if delta > 0)
    if not lowest <= final <= highest:
        yield Violation(
            "miscount", f"key {key!r} ends as {final}; its additions make {lowest} to {highest}"
        )


def _miscounted_tokens(
    appended: AppendedList, views: list[tuple[float, bytes, Any]]
) -> Iterator[Violation]:
    """Compare what the list was, as seen from some time on, with the appends acknowledged then."""
    ends = sorted(
        (_end(append), token)
        for token, append in appended.appends.items()
        if append.outcome is Outcome.OK
    )
    needed: set[bytes] = set()
    for moment, value, where in views:
        while len(needed) < len(ends) and ends[len(needed)][0] < moment:
            needed.add(ends[len(needed)][1])
        # Bytes that are no tokens are a matter of `phantom_reads`.
        tokens = appended.split(value) or []
        present = set(tokens)
        texts = [f"{token!r} is missing" for token in sorted(needed - present)]
        if len(present) < len(tokens):
            counts = Counter(tokens).items()
            texts += [f"{token!r} is there {count} times" for token, count in counts if count > 1]
        for text in texts:
            yield Violation("miscount", f"list {appended.name}: {text}: {where}")


# ---- (f) replicas are equal --------------------------------------------------------------------


def diverged_replicas(
    hashes: Mapping[Hashable, Mapping[int, Hashable]],
) -> list[Violation]:
    """Report the indexes at which replicas differ.

    `hashes` holds, by replica, the hash of its state or of its log at each index it has applied.
    """
    at_index: dict[int, dict[Hashable, list[Hashable]]] = {}
    for replica, states in hashes.items():
        for index, state in states.items():
            at_index.setdefault(index, {}).setdefault(state, []).append(replica)
    return [
        Violation("diverged replicas", f"at index {index}: {_sides(sides)}")
        for index, sides in sorted(at_index.items())
        if len(sides) > 1
    ]


def _sides(sides: Mapping[Hashable, list[Hashable]]) -> str:
    return " against ".join(
        f"{', '.join(map(str, replicas))} ({state!r})" for state, replicas in sides.items()
    )
