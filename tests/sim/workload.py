"""What clients ask: few keys, unique values, every kind of operation that the checker knows."""

from __future__ import annotations

import random
from typing import Any, NamedTuple

from rafter_kv.slots import group_by_slot, slot_of

OPERATIONS_PER_KEY_MAX = 200
KINDS = ("register", "register", "register", "counter", "list", "batch")
KEY_CONCURRENCY = 16
READERS = 3
"""One of so many clients only reads: no write that cannot commit holds up what it asks next."""
SUB_KEYS = (b"a", b"b", b"c")


class Intent(NamedTuple):
    """One command, and what it means for the history. Without a kind it is not in it."""

    key: str
    kind: str | None
    arguments: tuple[Any, ...]
    command: tuple[bytes, ...]

    @property
    def is_read(self) -> bool:
        return self.kind in ("read", "read_many")

    def problem(self, reply: Any) -> str:
        """Return what is wrong with a reply by itself, or nothing."""
        if self.kind is None and reply != self.command[1]:
            return f"{self.command} was answered with {reply!r}: replies are out of order"
        return ""

    def result(self, reply: Any) -> Any:
        """Return a reply as the history has it."""
        match self.kind:
            case "write" | "write_many":
                return None
            case "delete":
                return bool(reply)
            case "set_if_absent":
                return reply is not None
            case "read_many":
                return tuple(reply)
            case "read" if self.key.startswith("counter"):
                return None if reply is None else int(reply)
        return reply

    def __str__(self) -> str:
        return b" ".join(self.command).decode("latin-1")


class Workload:
    """Draws operations. Keys are left for new ones when they have had enough."""

    def __init__(self, draw: random.Random, groups: int, concurrency: int) -> None:
        """`concurrency` is how many operations may be under way at once."""
        self.moment = 0
        """When a client last asked or was answered, by the clock of the history."""
        self.keys_used: dict[str, str] = {}
        """The kind of model of each key that was used."""
        self._draw = draw
        self._groups = groups
        # The checker can tell quickly while few operations of a key are under way at once.
        self._keys_per_kind = 1 + concurrency // (len(KINDS) * KEY_CONCURRENCY * groups)
        self._count = 0
        self._used: dict[str, int] = {}
        self._tags = self._tags_of_groups()

    def _tags_of_groups(self) -> dict[int, bytes]:
        """Return a hash tag for each group."""
        table = group_by_slot(self._groups)
        tags: dict[int, bytes] = {}
        number = 0
        while len(tags) < self._groups:
            tag = b"t%d" % number
            tags.setdefault(table[slot_of(b"{" + tag + b"}")], tag)
            number += 1
        return tags

    def is_reader(self, client: int) -> bool:
        """Whether a client only reads."""
        return client % READERS == READERS - 1

    def next(self, client: int) -> Intent:
        """Draw one operation of a client."""
        self._count += 1
        draw = self._draw
        value = b"%d.%d" % (client, self._count)
        if draw.random() < 0.03:
            return Intent("", None, (), (b"ECHO", value))
        tag = self._tags[draw.randint(1, self._groups)]
        kind = draw.choice(KINDS)
        key = self._key(kind, tag)
        if self.is_reader(client):
            return self._read(key, kind, tag)
        match kind:
            case "register":
                return self._register(key, tag, value)
            case "counter":
                return self._counter(key, tag)
            case "list":
                return self._list(key, tag, value)
        return self._batch(key, tag, value)

    def _key(self, kind: str, tag: bytes) -> str:
        """Return the present key of a kind in a group."""
        name = f"{kind}{tag.decode()}.{self._draw.randrange(self._keys_per_kind)}"
        used = self._used[name] = self._used.get(name, 0) + 1
        key = f"{name}.{used // OPERATIONS_PER_KEY_MAX}"
        self.keys_used[key] = kind
        return key

    def wire_key(self, key: str, tag: bytes) -> bytes:
        return b"{" + tag + b"}" + key.encode()

    def _register(self, key: str, tag: bytes, value: bytes) -> Intent:
        name = self.wire_key(key, tag)
        luck = self._draw.random()
        if luck < 0.45:
            return Intent(key, "read", (), (b"GET", name))
        if luck < 0.75:
            return Intent(key, "write", (value,), (b"SET", name, value))
        if luck < 0.85:
            return Intent(key, "get_and_set", (value,), (b"SET", name, value, b"GET"))
        if luck < 0.95:
            return Intent(key, "set_if_absent", (value,), (b"SET", name, value, b"NX"))
        return Intent(key, "delete", (), (b"DEL", name))

    def _counter(self, key: str, tag: bytes) -> Intent:
        name = self.wire_key(key, tag)
        if self._draw.random() < 0.3:
            return Intent(key, "read", (), (b"GET", name))
        delta = self._draw.randint(1, 9)
        return Intent(key, "add", (delta,), (b"INCRBY", name, b"%d" % delta))

    def _list(self, key: str, tag: bytes, value: bytes) -> Intent:
        name = self.wire_key(key, tag)
        if self._draw.random() < 0.4:
            return Intent(key, "read", (), (b"GET", name))
        token = value + b";"
        return Intent(key, "append", (token,), (b"APPEND", name, token))

    def _batch(self, key: str, tag: bytes, value: bytes) -> Intent:
        subs = self._draw.sample(SUB_KEYS, self._draw.randint(2, len(SUB_KEYS)))
        names = {sub: self.wire_key(key, tag) + sub for sub in subs}
        if self._draw.random() < 0.5:
            command = (b"MGET", *(names[sub] for sub in subs))
            return Intent(key, "read_many", (tuple(subs),), command)
        pairs = tuple((sub, value + sub) for sub in subs)
        flat = tuple(part for sub, text in pairs for part in (names[sub], text))
        return Intent(key, "write_many", (pairs,), (b"MSET", *flat))

    def readback(self) -> list[Intent]:
        """Return a read of every key that was used."""
        intents = []
        for key, kind in self.keys_used.items():
            tag = key[len(kind) :].partition(".")[0].encode()
            intents.append(self._read(key, kind, tag))
        return intents

    def _read(self, key: str, kind: str, tag: bytes) -> Intent:
        """Return a read of a whole key."""
        name = self.wire_key(key, tag)
        if kind == "batch":
            command = (b"MGET", *(name + sub for sub in SUB_KEYS))
            return Intent(key, "read_many", (SUB_KEYS,), command)
        return Intent(key, "read", (), (b"GET", name))

    def probes(self) -> list[Intent]:
        """Return a write to every group, for the question whether it can commit."""
        self._count += 1
        value = b"probe %d" % self._count
        return [
            Intent(
                self.probe_key(group), "write", (value,), (b"SET", b"{" + tag + b"}probe", value)
            )
            for group, tag in self._tags.items()
        ]

    def probe_key(self, group: int) -> str:
        """Return the key of the probe of a group."""
        return f"probe{self._tags[group].decode()}.0"

    def group_of(self, intent: Intent) -> int:
        """Return the group of an operation's key."""
        groups = {tag: group for group, tag in self._tags.items()}
        return groups[intent.command[1][1:].partition(b"}")[0]]
