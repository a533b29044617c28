"""A small blocking client: one command at a time, over the first endpoint that works.

What it promises about failures is its reason to exist. A command ends in exactly one way:

* its reply is returned;
* `ServerError`: the server refused it;
* `Unavailable`: it was not executed, because nothing could take it: no endpoint answered, or its
  group has no leader;
* `TimedOut`: a read got no answer in time, and nothing changed;
* `UnknownOutcome`: a write was sent and its answer never came. It may have been executed, and it
  is never sent a second time: an INCR repeated blindly counts twice;
* `ReplyTooLarge`: a read whose answer is longer than this client agreed to buffer.

Endpoints are tried in order, beginning with the one that worked last. Each gets a fair share of
what is left of the timeout to accept the connection and answer HELLO, so one that hangs does not
use up the time of the others.

Not safe for use from several threads at once.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final, Self

from rafter_kv.client_connection import (
    BrokenError,
    Connection,
    DeadlineError,
    Endpoint,
    EndpointError,
    NotSentError,
    RafterError,
    ReplyTooLarge,
    ServerError,
    TimedOut,
    Unavailable,
    UnknownOutcome,
    pack_command,
    parse_endpoints,
    reason_of,
)

if TYPE_CHECKING:
    import ssl

__all__ = [
    "READ_ONLY_COMMANDS",
    "Client",
    "Endpoint",
    "EndpointError",
    "RafterError",
    "ReplyTooLarge",
    "ServerError",
    "TimedOut",
    "Unavailable",
    "UnknownOutcome",
    "parse_endpoints",
]

TIMEOUT_SECONDS_DEFAULT: Final = 5.0
REPLY_BYTES_MAX_DEFAULT: Final = 1 << 30
"""Redis's largest value is 512 MiB; a reply may carry a few of them."""

READ_ONLY_COMMANDS: Final = frozenset(
    {
        b"COMMAND", b"DBSIZE", b"ECHO", b"EXISTS", b"EXPIRETIME", b"GET", b"GETRANGE",
        b"INFO", b"KEYS", b"MGET", b"PEXPIRETIME", b"PING", b"PTTL", b"RAFTER.STATUS", b"SCAN",
        b"STRLEN", b"SUBSTR", b"TIME", b"TTL", b"TYPE",
    }
)  # fmt: skip
"""Commands that may be sent again after a connection broke. Any other counts as a write."""

_UNAVAILABLE_CODES: Final = frozenset({"CLUSTERDOWN", "LOADING", "MASTERDOWN", "TRYAGAIN"})
"""Codes which a server sends only for a command that it did not begin to execute."""


class Client:
    """A connection to a cluster through any of `endpoints`, opened by the first command.

    `timeout_seconds` bounds each call as a whole: connecting, trying further endpoints, waiting
    for the reply. Only the resolver of the operating system can take longer. `reply_bytes_max`
    bounds what is buffered of one reply. With `tls` connections are encrypted, and the host of an
    endpoint is the name that is asked for.
    """

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        *,
        timeout_seconds: float = TIMEOUT_SECONDS_DEFAULT,
        reply_bytes_max: int = REPLY_BYTES_MAX_DEFAULT,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        if not endpoints:
            raise EndpointError("a client needs at least one endpoint")
        if not 0 < timeout_seconds < float("inf"):
            raise ValueError(f"timeout_seconds must be above 0, not {timeout_seconds}")
        self._endpoints = tuple(endpoints)
        self._timeout_seconds = timeout_seconds
        self._reply_bytes_max = reply_bytes_max
        self._tls = tls
        self._preferred = 0  # position of the endpoint that worked last
        self._connection: Connection | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def endpoint(self) -> Endpoint | None:
        """Where this client is connected to, if it is."""
        return self._connection.endpoint if self._connection else None

    def close(self) -> None:
        """Close the connection. A later command opens a new one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def call(self, *arguments: bytes | str | int, read_only: bool | None = None) -> object:
        """Execute one command and return its reply; see the module's text for the errors.

        Bulk and status strings are bytes, nil is None; errors inside arrays are ServerError
        values. `read_only=None` looks the name up in READ_ONLY_COMMANDS.
        """
        if not arguments:
            raise ValueError("a command needs at least its name")
        if read_only is None:
            name = arguments[0]
            name = name if isinstance(name, bytes) else str(name).encode()
            read_only = name.upper() in READ_ONLY_COMMANDS
        reply = self._exchange(pack_command(arguments), read_only)
        if not isinstance(reply, ServerError):
            return reply
        if reply.code in _UNAVAILABLE_CODES:
            raise Unavailable(reply.message)
        if reply.code == "TIMEOUT":
            raise TimedOut(reply.message) if read_only else UnknownOutcome(reply.message)
        raise reply

    def _exchange(self, request: bytes, read_only: bool) -> object:
        """Send `request` to endpoints in turn until a reply is there or repeating is unsafe."""
        deadline = time.monotonic() + self._timeout_seconds
        count = len(self._endpoints)
        untried = [(self._preferred + step) % count for step in range(count)]
        failures: list[str] = []
        if self._connection is not None and self._connection.is_stale():
            self.close()  # The server closed it while it was idle: nothing is in doubt.
        while True:
            connection = self._connection or self._connect(untried, failures, deadline)
            self._connection = connection
            try:
                return connection.exchange(request, deadline)
            except NotSentError as error:
                self.close()
                failures.append(f"{connection.endpoint}: {error}")
            except BrokenError as error:
                self.close()
                if not read_only:
                    raise UnknownOutcome(
                        f"{connection.endpoint}: {error}; the command may have been executed"
                    ) from error
                failures.append(f"{connection.endpoint}: {error}")
            except DeadlineError as error:
                self.close()
                waited = f"{connection.endpoint}: no answer within {self._timeout_seconds:g} s"
                if read_only:
                    raise TimedOut(waited) from error
                raise UnknownOutcome(f"{waited}; the command may have been executed") from error
            except ReplyTooLarge as error:
                self.close()
                if read_only:
                    raise
                raise UnknownOutcome(f"{error}; the command has probably been executed") from error
            except BaseException:
                # Interrupted (Ctrl-C) with a reply outstanding: the next call must not read it.
                self.close()
                raise

    def _connect(self, untried: list[int], failures: list[str], deadline: float) -> Connection:
        """Open a connection to the first of `untried` that answers HELLO, taking it off the list.

        Raises Unavailable with the reason of each endpoint when none is left.
        """
        while untried:
            share_seconds = (deadline - time.monotonic()) / len(untried)
            position = untried.pop(0)
            endpoint = self._endpoints[position]
            if share_seconds <= 0:
                failures.append(f"{endpoint}: no time left to try it")
                continue
            connection = None
            try:
                share_end = time.monotonic() + share_seconds
                connection = Connection(endpoint, share_end, self._reply_bytes_max, self._tls)
                connection.greet(share_end)
            except (OSError, NotSentError, BrokenError, DeadlineError, ReplyTooLarge) as error:
                failures.append(f"{endpoint}: {reason_of(error)}")
                if connection is not None:
                    connection.close()
                continue
            except BaseException:
                if connection is not None:
                    connection.close()
                raise
            self._preferred = position
            return connection
        raise Unavailable("no endpoint answers: " + "; ".join(failures))

    def get(self, key: bytes | str) -> bytes | None:
        """Return the value of `key`, or None if there is none."""
        reply = self.call(b"GET", key)
        if reply is None or isinstance(reply, bytes):
            return reply
        raise _unexpected("GET", reply)

    def put(
        self,
        key: bytes | str,
        value: bytes | str,
        *,
        ttl_milliseconds: int | None = None,
        only_if_absent: bool = False,
        only_if_present: bool = False,
    ) -> bool:
        """Store a value; return False if the condition did not hold and nothing was changed.

        On True the value is on the disks of a majority. Without `ttl_milliseconds` a former time
        to live is removed.
        """
        options: list[bytes | int] = []
        if ttl_milliseconds is not None:
            options += [b"PX", ttl_milliseconds]
        if only_if_absent:
            options.append(b"NX")
        if only_if_present:
            options.append(b"XX")
        reply = self.call(b"SET", key, value, *options)
        if reply is None or reply == b"OK":
            return reply is not None
        raise _unexpected("SET", reply)

    def delete(self, *keys: bytes | str) -> int:
        """Remove keys; return how many of them existed."""
        return _integer("DEL", self.call(b"DEL", *keys))

    def increment(self, key: bytes | str, by: int = 1) -> int:
        """Add `by` to the integer at `key` (0 if absent) and return the sum."""
        return _integer("INCRBY", self.call(b"INCRBY", key, by))

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return the values of `keys`, in order; those of several groups are not of one moment."""
        reply = self.call(b"MGET", *keys)
        if not isinstance(reply, list) or len(reply) != len(keys):
            raise _unexpected("MGET", reply)
        values: list[bytes | None] = []
        for value in reply:
            if isinstance(value, ServerError):
                raise value
            if value is not None and not isinstance(value, bytes):
                raise _unexpected("MGET", value)
            values.append(value)
        return values

    def scan(self, pattern: bytes | None = None, count: int | None = None) -> Iterator[list[bytes]]:
        """Yield the keys page by page; pages may be empty.

        Every key that is there from beginning to end is yielded at least once; one that comes or
        goes meanwhile may be missing, and a key may be repeated.
        """
        options: list[bytes | int] = []
        if pattern is not None:
            options += [b"MATCH", pattern]
        if count is not None:
            options += [b"COUNT", count]
        cursor = b"0"
        while True:
            reply = self.call(b"SCAN", cursor, *options)
            match reply:
                case [bytes(cursor), list(keys)] if all(isinstance(key, bytes) for key in keys):
                    yield keys
                case _:
                    raise _unexpected("SCAN", reply)
            if cursor == b"0":
                return


def _integer(name: str, reply: object) -> int:
    if isinstance(reply, int) and not isinstance(reply, bool):
        return reply
    raise _unexpected(name, reply)


def _unexpected(name: str, reply: object) -> ServerError:
    """Build the error for a reply whose type the command cannot have."""
    return ServerError(f"ERR unexpected reply to {name}: {reply!r:.100}")
