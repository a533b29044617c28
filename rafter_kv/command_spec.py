"""The form in which a command is declared: one record from which routing, COMMAND and apply answer.

The tables themselves are ``data_commands`` (commands on keys, run by the state machine) and
``server_commands`` (commands on the connection and the node, run where they arrive).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING, TypeAlias

from rafter_kv.results import Arguments, Result

if TYPE_CHECKING:
    from rafter_kv.connection import RespConnection
    from rafter_kv.keyspace import KeySpace

#: Runs in the state machine: (keyspace, arguments with the name at [0], now_ms) -> result.
#: A write is a function of these three alone; a read changes nothing.
Operation: TypeAlias = "Callable[[KeySpace, Arguments, int], Result]"
#: Runs on the connection: (connection, arguments with the name at [0]) -> result.
Handler: TypeAlias = "Callable[[RespConnection, list[bytes]], Result]"


class Routing(Enum):
    """Which groups a command goes to, and how their results become one reply."""

    KEY = auto()
    """To the group of its one key."""
    SPLIT_SUM = auto()
    """Keys split by group, one sub-command each, integer results added: DEL, EXISTS."""
    SPLIT_ARRAY = auto()
    """Keys split by group, results put back in the order of the keys: MGET."""
    SAME_GROUP = auto()
    """Every key in one group, else CROSSSLOT: MSET."""
    ALL_SUM = auto()
    """To every group, integer results added: DBSIZE."""
    ALL_CONCAT = auto()
    """To every group, arrays joined in group order: KEYS."""
    ALL_OK = auto()
    """To every group, +OK when all said so: FLUSHALL."""
    CURSOR = auto()
    """To the group that the cursor names: SCAN."""
    LOCAL = auto()
    """Answered by the connection itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandSpec:
    """One command, declared. Made at import, shared by all connections, never changed.

    ``name`` is upper case; it is also what is written to the log. ``arity`` counts the name and
    follows Redis: n means exactly n, -n at least n. ``last_key`` may be negative (from the end);
    ``first_key`` 0 means that the command has no keys. ``operation`` is set for data commands,
    ``handler`` for LOCAL ones.
    """

    name: bytes
    arity: int
    flags: tuple[str, ...] = ()
    first_key: int = 0
    last_key: int = 0
    key_step: int = 0
    is_write: bool = False
    routing: Routing = Routing.LOCAL
    operation: Operation | None = None
    handler: Handler | None = None
    summary: str = ""
    since: str = "1.0.0"
    group: str = "server"
    complexity: str = "O(1)"
    subcommands: tuple[CommandSpec, ...] = ()

    def accepts(self, arguments_count: int) -> bool:
        """Tell whether this many arguments, the name included, satisfy the arity."""
        return arguments_count == self.arity if self.arity > 0 else arguments_count >= -self.arity

    def keys(self, arguments: Arguments) -> list[bytes]:
        """Return the keys of a command whose arity was found right, in their order."""
        if not self.first_key:
            return []
        last = self.last_key if self.last_key >= 0 else len(arguments) + self.last_key
        return list(arguments[self.first_key : last + 1 : self.key_step])
