"""The operations that clients run: on what keys, which commands, and what the replies mean.

An *object* is one key, or one hash tag with some keys under it, and is what a history is split by.
Clients work in teams. Each team has a few objects at a time and takes new ones when these have had
as many operations as a checker can bear; so keys are met by faults when young and old, and
what was written to them long ago is read again in the end.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from tests.linear.history import Outcome

Words = tuple[bytes, ...]

TEAM_CLIENTS = 8
OBJECTS_AT_A_TIME = 3
OPERATIONS_MAX = 400
"""Of one object; the reads in the end come on top."""
UNKNOWN_WRITES_MAX = 8
"""An object with so many writes of unknown outcome is left alone: each may happen at any time."""
PARTS = ("a", "b", "c")
"""The keys under one hash tag."""
NOT_EXECUTED = "nothing was executed"


class StrangeReplyError(ValueError):
    """A reply that no command of its kind can have."""


class Step(NamedTuple):
    """One operation to run: as the history calls it, and as the server does."""

    kind: str
    arguments: tuple[Any, ...]
    words: Words
    result_of: Callable[[Any], Any]
    """Turns a reply that is no error into a result of the history; StrangeReplyError."""

    @property
    def is_write(self) -> bool:
        """Whether it may change something."""
        return self.kind not in {"read", "read_many"}


def judge_reply(step: Step, reply: Any) -> tuple[Outcome, Any]:
    """Return what a reply says: the outcome, and the result if it is OK.

    An error that says that nothing was executed is FAILED. After any other it may have been.
    """
    if isinstance(reply, Exception):
        return (Outcome.FAILED if NOT_EXECUTED in str(reply) else Outcome.UNKNOWN), None
    return Outcome.OK, step.result_of(reply)


# ---- replies -------------------------------------------------------------------------------------


def _value(reply: Any) -> bytes | None:
    if reply is None or isinstance(reply, bytes):
        return reply
    raise StrangeReplyError(f"{reply!r} is no value")


def _values(reply: Any) -> tuple[bytes | None, ...]:
    if isinstance(reply, list) and len(reply) == len(PARTS):
        return tuple(map(_value, reply))
    raise StrangeReplyError(f"{reply!r} is no list of {len(PARTS)} values")


def _ok(reply: Any) -> None:
    if reply != b"OK":
        raise StrangeReplyError(f"{reply!r} is not OK")


def _was_set(reply: Any) -> bool:
    if reply in (None, b"OK"):
        return reply is not None
    raise StrangeReplyError(f"{reply!r} says not whether it was set")


def _integer(reply: Any) -> int:
    if isinstance(reply, int):
        return reply
    raise StrangeReplyError(f"{reply!r} is no integer")


def _counter_value(reply: Any) -> int | None:
    value = _value(reply)
    try:
        return None if value is None else int(value)
    except ValueError as error:
        raise StrangeReplyError(str(error)) from None


def _was_there(reply: Any) -> bool:
    if reply in (0, 1):
        return bool(reply)
    raise StrangeReplyError(f"{reply!r} keys are not zero or one")


# ---- sorts of objects ----------------------------------------------------------------------------


def _register(generator: random.Random, key: bytes, value: bytes) -> Step:
    chance = generator.random()
    if chance < 0.5:
        return Step("read", (), (b"GET", key), _value)
    if chance < 0.95:
        return Step("write", (value,), (b"SET", key, value), _ok)
    return Step("delete", (), (b"DEL", key), _was_there)


def _exchange(generator: random.Random, key: bytes, value: bytes) -> Step:
    chance = generator.random()
    if chance < 0.3:
        return Step("read", (), (b"GET", key), _value)
    if chance < 0.5:
        return Step("set_if_absent", (value,), (b"SET", key, value, b"NX"), _was_set)
    if chance < 0.85:
        return Step("get_and_set", (value,), (b"GETSET", key, value), _value)
    return Step("delete", (), (b"DEL", key), _was_there)


def _counter(generator: random.Random, key: bytes, value: bytes) -> Step:
    if generator.random() < 0.3:
        return Step("read", (), (b"GET", key), _counter_value)
    delta = generator.randint(1, 9)
    return Step("add", (delta,), (b"INCRBY", key, b"%d" % delta), _integer)


def _append(generator: random.Random, key: bytes, value: bytes) -> Step:
    if generator.random() < 0.4:
        return Step("read", (), (b"GET", key), _value)
    token = value + b";"
    return Step("append", (token,), (b"APPEND", key, token), _integer)


def _batch(generator: random.Random, tag: bytes, value: bytes) -> Step:
    chance = generator.random()
    if chance < 0.4:
        return Step("read_many", (PARTS,), (b"MGET", *keys_of("batch", tag.decode())), _values)
    if chance < 0.8:
        pairs = tuple((part, value) for part in PARTS)
        words = [word for part in PARTS for word in (_part_key(tag, part), value)]
        return Step("write_many", (pairs,), (b"MSET", *words), _ok)
    part = generator.choice(PARTS)
    key = _part_key(tag, part)
    if chance < 0.9:
        return Step("read", (part,), (b"GET", key), _value)
    return Step("write", (part, value), (b"SET", key, value), _ok)


def _part_key(tag: bytes, part: str) -> bytes:
    return b"{%s}%s" % (tag, part.encode())


SORTS: dict[str, Callable[[random.Random, bytes, bytes], Step]] = {
    "register": _register,
    "exchange": _exchange,
    "counter": _counter,
    "append": _append,
    "batch": _batch,
}


def keys_of(sort: str, name: str) -> list[bytes]:
    """Return the keys that an object consists of."""
    encoded = name.encode()
    return [_part_key(encoded, part) for part in PARTS] if sort == "batch" else [encoded]


def reading(sort: str, name: str) -> Step:
    """Return the operation that reads a whole object."""
    keys = keys_of(sort, name)
    if sort == "batch":
        return Step("read_many", (PARTS,), (b"MGET", *keys), _values)
    return Step("read", (), (b"GET", *keys), _counter_value if sort == "counter" else _value)


# ---- teams ---------------------------------------------------------------------------------------


@dataclass(slots=True)
class Object:
    """What a history is split by, and how often it was used."""

    sort: str
    name: str
    operations: int = 0
    unknown_writes: int = 0

    @property
    def is_used_up(self) -> bool:
        """Whether a checker would have too much to do with more operations."""
        return self.operations >= OPERATIONS_MAX or self.unknown_writes >= UNKNOWN_WRITES_MAX


class Team:
    """The objects of some clients: no more than TEAM_CLIENTS ever work on one of them at once."""

    def __init__(
        self, number: int, generator: random.Random, sorts: Iterable[str] = tuple(SORTS)
    ) -> None:
        self.objects: list[Object] = []
        """All there have been."""
        self._number = number
        self._generator = generator
        self._sorts = list(sorts)
        self._current = [self._new_object() for _ in range(OBJECTS_AT_A_TIME)]
        self._values = 0

    def next_step(self) -> tuple[Object, Step]:
        """Return an operation to run, with a value that nobody else writes."""
        place = self._generator.randrange(OBJECTS_AT_A_TIME)
        chosen = self._current[place]
        if chosen.is_used_up:
            chosen = self._current[place] = self._new_object()
        chosen.operations += 1
        self._values += 1
        value = b"%d.%d" % (self._number, self._values)
        return chosen, SORTS[chosen.sort](self._generator, chosen.name.encode(), value)

    def _new_object(self) -> Object:
        count = len(self.objects)
        # Each team begins where the one before has ended, so that all sorts are there at once.
        sort = self._sorts[(count + self._number * OBJECTS_AT_A_TIME) % len(self._sorts)]
        new = Object(sort, f"{sort}-{self._number}-{count}")
        self.objects.append(new)
        return new
