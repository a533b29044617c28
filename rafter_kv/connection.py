"""One client's connection: bytes to commands, commands to groups, results to replies in order.

Commands of one read chunk share a `ReplySlot`. Replies go out when the oldest slot is complete,
all complete slots behind it joined into one write. Nothing here waits: what a group answers
comes back through the slot, what the client does not read stops further reading.
"""

from __future__ import annotations

import asyncio
from binascii import crc_hqx
from collections import deque
from itertools import chain
from time import monotonic
from typing import TYPE_CHECKING, Final, cast

from rafter_kv.command_table import ROUTES, Route, find_route, unknown_command
from rafter_kv.reply_encoding import encode_into
from rafter_kv.reply_slot import ReplySlot
from rafter_kv.resp import ParserLimits, ProtocolError, RefusedCommand, RequestParser
from rafter_kv.results import wrong_arity
from rafter_kv.scatter import scatter
from rafter_kv.server_commands import PENDING
from rafter_kv.slots import SLOT_COUNT, slot_of

if TYPE_CHECKING:
    from rafter_kv.front_end import FrontEnd
    from rafter_kv.results import Result

_FLUSH_BYTES_MAX: Final = 1024 * 1024
"""Large results encoded into one write; what is beyond goes in the next."""
SLOT_MASK: Final = SLOT_COUNT - 1
_PROTOCOL_CHANGERS: Final = frozenset((b"HELLO", b"RESET"))


class RespConnection(asyncio.Protocol):
    """The protocol object of one accepted client.

    Hand a factory of these to `loop.create_server`. The public attributes are read and set by the
    handlers of the connection's own commands.
    """

    __slots__ = (
        "_bytes_max",
        "_commands_max",
        "_front_end",
        "_is_closing",
        "_is_drained",
        "_is_reading_paused",
        "_is_touched",
        "_is_writing_paused",
        "_key_bytes_max",
        "_linger",
        "_loop",
        "_parser",
        "_slots",
        "_transport",
        "_unanswered_bytes",
        "_unanswered_commands",
        "client_id",
        "connected_seconds",
        "current_position",
        "current_slot",
        "file_number",
        "last_name",
        "last_seconds",
        "library_name",
        "library_version",
        "local_address",
        "name",
        "peer_address",
        "protocol",
        "readonly",
    )

    def __init__(self, front_end: FrontEnd) -> None:
        limits = front_end.limits
        self._front_end = front_end
        self._parser = RequestParser(
            ParserLimits(
                limits.bulk_bytes_max, limits.value_bytes_max, limits.query_buffer_bytes_max
            )
        )
        self._commands_max = limits.unanswered_commands_max
        self._bytes_max = limits.unanswered_bytes_max
        self._key_bytes_max = limits.key_bytes_max
        self._loop: asyncio.AbstractEventLoop | None = None
        self._transport: asyncio.Transport | None = None
        self._linger: asyncio.TimerHandle | None = None
        self._slots: deque[ReplySlot] = deque()
        self._unanswered_commands = 0
        self._unanswered_bytes = 0
        self._is_closing = False  # no further request is taken; replies still go out
        self._is_drained = False  # the connection ends as soon as nothing is unanswered
        self._is_touched = False
        self._is_reading_paused = False
        self._is_writing_paused = False
        self.client_id = 0
        self.file_number = -1
        self.connected_seconds = self.last_seconds = 0.0
        self.peer_address = self.local_address = ""
        self.last_name = b""
        self.current_slot: ReplySlot | None = None
        self.current_position = 0
        self.protocol = 2
        self.readonly = False
        self.name = b""
        self.library_name = b""
        self.library_version = b""

    @property
    def front_end(self) -> FrontEnd:
        """The server behind this connection."""
        return self._front_end

    @property
    def retained_bytes(self) -> int:
        """Bytes of a request that has not arrived completely."""
        return self._parser.retained_bytes

    @property
    def write_buffer_bytes(self) -> int:
        """Bytes of replies that the client has not taken yet."""
        return self._transport.get_write_buffer_size() if self._transport is not None else 0

    @property
    def unanswered_commands(self) -> int:
        """Commands whose replies have not been handed to the transport."""
        return self._unanswered_commands

    # -- called by the loop ----------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Enter the registry, or refuse the client if there are too many."""
        front_end = self._front_end
        self._loop = asyncio.get_running_loop()
        stream = cast("asyncio.Transport", transport)
        self._transport = stream
        self.client_id = front_end.next_client_id()
        self.connected_seconds = self.last_seconds = monotonic()
        self.peer_address = _address(stream.get_extra_info("peername"))
        self.file_number = _file_number(stream)
        self.local_address = _address(stream.get_extra_info("sockname"))
        stream.set_write_buffer_limits(high=front_end.limits.write_buffer_bytes_max)
        if not front_end.clients.add(self.client_id, self):
            # No lingering here, as for others: those that are too many must not add up.
            self._is_closing = True
            stream.write(b"-ERR max number of clients reached\r\n")
            stream.close()

    def connection_lost(self, _error: Exception | None) -> None:
        """Drop everything; results that arrive later find nobody."""
        self._transport = None
        self._is_closing = True
        if self._linger is not None:
            self._linger.cancel()
            self._linger = None
        self._slots.clear()
        self._front_end.clients.remove(self.client_id)

    def data_received(self, data: bytes) -> None:
        """Execute the commands that `data` completes."""
        if self._is_closing:
            return
        parser = self._parser
        request_bytes = len(data)
        if parser.is_mid_request:
            request_bytes += parser.retained_bytes
        is_long = request_bytes > self._key_bytes_max or parser.is_mid_request
        error = None
        try:
            commands = parser.feed(data)
        except ProtocolError as caught:
            commands, error = caught.commands, caught.text
        registry = self._front_end.clients
        registry.request_bytes_total += len(data)
        if commands:
            registry.commands_total += len(commands)
            if is_long:
                self._refuse_long_keys(commands)
            self._unanswered_bytes += request_bytes
            self._dispatch(commands, request_bytes)
        if error is not None and not self._is_closing:
            registry.protocol_errors_total += 1
            self._answer_and_close(f"-ERR {error}")
        if (
            self._unanswered_commands > self._commands_max
            or self._unanswered_bytes > self._bytes_max
        ):
            self._pause_reading()

    def eof_received(self) -> bool:
        """Keep a half-closed connection until its requests are answered."""
        self._is_closing = True
        self._is_drained = True
        return bool(self._slots)

    def pause_writing(self) -> None:
        """Stop taking requests and sending replies: the client does not read."""
        self._is_writing_paused = True
        self._pause_reading()

    def resume_writing(self) -> None:
        """Go on: the client has read most of what it was sent."""
        self._is_writing_paused = False
        self._touch()
        self._resume_reading()

    # -- called by the front end -----------------------------------------------------------------

    def slot_completed(self, slot: ReplySlot) -> None:
        """Have the replies sent, if no older slot is waiting. Called by `ReplySlot.complete`."""
        slots = self._slots
        if slots and slots[0] is slot:
            self._touch()

    def flush_replies(self) -> None:
        """Send all replies whose turn has come, in one write. Called once per `touch`."""
        self._is_touched = False
        transport = self._transport
        slots = self._slots
        if transport is None or self._is_writing_paused or not slots:
            return
        parts: list[bytes] = []
        budget_bytes = _FLUSH_BYTES_MAX
        while slots and not slots[0].waiting and budget_bytes > 0:
            slot = slots[0]
            replies = slot.replies
            done, budget_bytes = encode_into(
                parts, replies, slot.replies_sent, slot.protocol, budget_bytes
            )
            if done < len(replies):
                slot.replies_sent = done
                break
            slots.popleft()
            self._unanswered_commands -= len(replies)
            self._unanswered_bytes -= slot.request_bytes
            if slot.is_last:
                self._is_drained = True
                slots.clear()
        if parts:
            transport.write(b"".join(parts))
        if not slots:
            if self._is_drained:
                self._close()
                return
        elif not slots[0].waiting:
            # More than one write's worth of large values. The transport gets to say first
            # whether the client keeps up.
            assert self._loop is not None
            self._loop.call_soon(self._touch)
        if self._is_reading_paused:
            self._resume_reading()

    def close_after_replies(self) -> None:
        """Take no further request, answer those that were taken, then close (a draining server)."""
        self._is_closing = True
        self._is_drained = True
        if not self._slots:
            self._close()

    # -- commands to groups ----------------------------------------------------------------------

    def _dispatch(self, commands: list[list[bytes]], request_bytes: int) -> None:
        """Submit each command to its group, or answer it here; in order."""
        front_end = self._front_end
        submit = front_end.submit
        group_by_slot = front_end.group_by_slot
        get_route = ROUTES.get
        self.last_seconds = monotonic()
        self.last_name = commands[-1][0]
        remaining = len(commands)
        slot = self._begin_slot(remaining, request_bytes)
        position = -1
        answered = 0
        for command in commands:
            position += 1
            route = get_route(command[0]) or find_route(command[0])
            if route is None:
                slot.replies[position] = _unroutable(command)
                answered += 1
                continue
            name, least, most, key_position, is_write, spec = route
            if not least <= len(command) <= most:
                slot.replies[position] = wrong_arity(name)
                answered += 1
                continue
            command[0] = name
            if key_position:
                key = command[key_position]
                # The body of slot_of for keys without a hash tag, without the call.
                number = slot_of(key) if b"{" in key else crc_hqx(key, 0) & SLOT_MASK
                submit(group_by_slot[number], command, is_write, slot, position)
                continue
            if spec.handler is None:
                answered += scatter(front_end, spec, command, slot, position)
                continue
            if position and name in _PROTOCOL_CHANGERS:
                # Replies before it keep the old protocol.
                remaining -= position
                self._end_slot(slot, position, answered)
                slot = self._begin_slot(remaining, 0)
                position = answered = 0
            answered += self._answer(route, command, slot, position)
            if self._is_closing:  # QUIT
                slot.is_last = True
                position += 1
                break
        else:
            position += 1
        self._end_slot(slot, position, answered)

    def _begin_slot(self, count: int, request_bytes: int) -> ReplySlot:
        slot = ReplySlot(self, count, request_bytes)
        self._slots.append(slot)
        self._unanswered_commands += count
        return slot

    def _end_slot(self, slot: ReplySlot, count: int, answered: int) -> None:
        """Cut the slot to the commands it got, and take off those that are answered already."""
        surplus = len(slot.replies) - count
        if surplus:
            del slot.replies[count:]
            self._unanswered_commands -= surplus
        slot.waiting -= surplus + answered
        if not slot.waiting and answered + surplus:
            slot.complete()

    def _answer(self, route: Route, command: list[bytes], slot: ReplySlot, position: int) -> int:
        """Run a command of the connection's own; return 1 if it is answered by now."""
        handler = route[5].handler
        assert handler is not None
        self.current_slot, self.current_position = slot, position
        result = handler(self, command)
        self.current_slot = None
        if result is PENDING:
            return 0
        slot.protocol = self.protocol
        slot.replies[position] = result
        return 1

    def quit(self) -> None:
        """Take no further request and close behind the current reply (QUIT)."""
        self._is_closing = True

    def _refuse_long_keys(self, commands: list[list[bytes]]) -> None:
        limit = self._key_bytes_max
        if max(map(len, chain.from_iterable(commands))) <= limit:
            return
        for position, command in enumerate(commands):
            route = find_route(command[0])
            if (
                route is not None
                and route[1] <= len(command) <= route[2]
                and any(len(key) > limit for key in route[5].keys(command))
            ):
                commands[position] = RefusedCommand(f"-ERR key exceeds the limit of {limit} bytes")

    def _answer_and_close(self, reply: str) -> None:
        self._is_closing = True
        slot = self._begin_slot(1, 0)
        slot.replies[0] = reply
        slot.is_last = True
        self._end_slot(slot, 1, 1)

    # -- the transport ---------------------------------------------------------------------------

    def _touch(self) -> None:
        if not self._is_touched and self._transport is not None:
            self._is_touched = True
            self._front_end.touch(self)

    def _pause_reading(self) -> None:
        if not self._is_reading_paused and self._transport is not None:
            self._is_reading_paused = True
            self._transport.pause_reading()

    def _resume_reading(self) -> None:
        if (
            self._is_reading_paused
            and not self._is_writing_paused
            and self._unanswered_commands <= self._commands_max // 2
            and self._unanswered_bytes <= self._bytes_max // 2
            and self._transport is not None
        ):
            self._is_reading_paused = False
            self._transport.resume_reading()

    def _close(self) -> None:
        """End the connection so that the client gets to read the last replies.

        A socket that is closed with unread input resets the connection, and the peer's kernel may
        then throw away the very reply that says why. So only the sending half is shut, and input
        is discarded until the client closes, or makes no progress for a while.
        """
        transport = self._transport
        assert transport is not None
        assert self._loop is not None
        if self._linger is not None or transport.is_closing():
            return
        if not transport.can_write_eof():
            transport.close()
            return
        transport.write_eof()
        if self._is_reading_paused and not transport.is_closing():
            self._is_reading_paused = False
            transport.resume_reading()
        self._arm_linger(transport.get_write_buffer_size())

    def _arm_linger(self, buffered_bytes: int) -> None:
        assert self._loop is not None
        seconds = self._front_end.limits.linger_seconds
        self._linger = self._loop.call_later(seconds, self._end_linger, buffered_bytes)

    def _end_linger(self, buffered_bytes_before: int) -> None:
        transport = self._transport
        if transport is None:
            return
        buffered_bytes = transport.get_write_buffer_size()
        if 0 < buffered_bytes < buffered_bytes_before:
            self._arm_linger(buffered_bytes)
        else:
            transport.abort()


def _unroutable(command: list[bytes]) -> Result:
    if type(command) is RefusedCommand:
        return command.reason
    return unknown_command(command)


def _file_number(transport: asyncio.Transport) -> int:
    sock = transport.get_extra_info("socket")
    return -1 if sock is None else int(sock.fileno())


def _address(name: object) -> str:
    if isinstance(name, tuple) and len(name) >= 2:
        host, port = name[0], name[1]
        return f"[{host}]:{port}" if ":" in str(host) else f"{host}:{port}"
    return str(name or "")
