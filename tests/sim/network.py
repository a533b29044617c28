"""The simulated network: hosts, listeners and stream connections, and what can happen to them.

Streams are TCP's: bytes of one connection arrive in order and once, or the connection breaks. A cut
from one host to another holds up what goes that way, until it is healed or an end loses patience.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Self

from tests.sim.transports import Address, SimTransport
from tests.sim.world import World

if TYPE_CHECKING:
    from tests.sim.loops import SimLoop

Made = asyncio.Future[tuple[asyncio.Transport, asyncio.Protocol]]
PATIENCE_SECONDS = 10.0
"""How long what is held up may be: then the sender's kernel gives the connection up."""
KNOCK_SECONDS = 1.0
"""When a kernel asks again for a connection, if nobody answers; the next time twice as late."""


class Server:
    """What `create_server` returns."""

    def __init__(self, network: Network, listener: Listener) -> None:
        self._network = network
        self._listener = listener
        self.sockets = (self,)

    def getsockname(self) -> Address:
        return self._listener.address

    def close(self) -> None:
        self._network.unlisten(self._listener)

    async def wait_closed(self) -> None:
        return


class Listener:
    """Somebody who accepts at an address."""

    def __init__(
        self, loop: SimLoop, factory: Callable[[], asyncio.Protocol], address: Address
    ) -> None:
        self.loop = loop
        self.factory = factory
        self.address = address


class PairEnd(socket.socket):
    """One end of a connection between two processes of a host, for `connect_accepted_socket`."""

    transport: SimTransport

    def __new__(cls, _transport: SimTransport) -> Self:
        return super().__new__(cls)

    def __init__(self, transport: SimTransport) -> None:
        # Not the socket's own: it would be opened.
        self.transport = transport

    def setblocking(self, flag: bool) -> None:
        del flag

    def close(self) -> None:
        self.transport.abort()


class Network:
    """All hosts' connections."""

    def __init__(self, world: World, delay_seconds: tuple[float, float]) -> None:
        self.world = world
        self.delay_seconds = delay_seconds
        self.slowness = [1.0]
        """Factors of all delays; the largest counts."""
        self.split_chance = 0.0
        """How often what arrives is given to its reader in pieces."""
        self._listeners: dict[Address, list[Listener]] = {}
        self._cuts: dict[tuple[str, str], int] = {}
        self._transports: dict[int, SimTransport] = {}
        self._hung: list[tuple[str, str, Callable[[], None]]] = []
        self._down: set[str] = set()
        self._number = 0
        self._port = 40_000

    # ---- listeners ----------------------------------------------------------------------------

    def listen(
        self,
        loop: SimLoop,
        factory: Callable[[], asyncio.Protocol],
        address: Address,
        *,
        reuse_port: bool,
    ) -> Server:
        """Accept at an address. Raises OSError if it is taken."""
        listeners = self._listeners.setdefault(address, [])
        if listeners and not reuse_port:
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
        listener = Listener(loop, factory, address)
        listeners.append(listener)
        return Server(self, listener)

    def unlisten(self, listener: Listener) -> None:
        listeners = self._listeners.get(listener.address, [])
        if listener in listeners:
            listeners.remove(listener)

    # ---- connections --------------------------------------------------------------------------

    def connect(
        self,
        loop: SimLoop,
        factory: Callable[[], asyncio.Protocol],
        address: Address,
        made: Made,
    ) -> None:
        """Connect a process to an address; `made` hears of it.

        A host that is down is asked again, as long as `made` is waited for.
        """
        self._port = 40_000 + (self._port - 39_999) % 20_000
        source = (loop.host, self._port)
        again_seconds = KNOCK_SECONDS

        def knock() -> None:
            self._send_or_hold(loop.host, address[0], arrive)

        def arrive() -> None:
            nonlocal again_seconds
            if made.done() or loop.is_dead:
                return
            if address[0] in self._down:
                self.world.after(again_seconds, knock)
                again_seconds *= 2
            else:
                self._accept(loop, factory, source, address, made)

        knock()

    def _accept(
        self,
        loop: SimLoop,
        factory: Callable[[], asyncio.Protocol],
        source: Address,
        address: Address,
        made: Made,
    ) -> None:
        listeners = self._listeners.get(address)
        if not listeners:
            self._send_or_hold(address[0], source[0], lambda: loop.call_soon(_refuse, made))
            return
        listener = self.world.draw.choice(listeners)
        near, far = self.make_pair(source, address)

        def accepted() -> None:
            far.begin(listener.loop, listener.factory())

        def established() -> None:
            loop.call_soon(_establish, loop, near, factory, made)

        listener.loop.call_soon(accepted)
        self._send_or_hold(address[0], source[0], established)

    def make_pair(self, near: Address, far: Address) -> tuple[SimTransport, SimTransport]:
        """Make both ends of a connection."""
        self._number += 2
        first = SimTransport(self, self._number, near, far)
        second = SimTransport(self, self._number + 1, far, near)
        first.other, second.other = second, first
        for transport in (first, second):
            self._transports[transport.number] = transport
        return first, second

    def pair_ends(self, host: str) -> tuple[PairEnd, PairEnd]:
        """Return what connects two processes of one host."""
        first, second = self.make_pair((host, 0), (host, 0))
        return PairEnd(first), PairEnd(second)

    def parts(self, data: bytes) -> Iterator[bytes]:
        """Return what arrived as its reader gets it."""
        if len(data) > 1 and self.world.chance(self.split_chance):
            self.world.tally["reads split"] += 1
            middle = self.world.draw.randrange(1, len(data))
            yield data[:middle]
            yield data[middle:]
        else:
            yield data

    # ---- what is on its way -------------------------------------------------------------------

    def _delay(self, source: str, target: str) -> float:
        if source == target:
            return self.world.draw.uniform(5e-6, 50e-6)
        return self.world.draw.uniform(*self.delay_seconds) * max(self.slowness)

    def send(self, sender: SimTransport, data: bytes | None) -> None:
        """Bring bytes, or the end of the stream, to the other end."""
        receiver = sender.other
        at = self.world.now + self._delay(sender.local[0], receiver.local[0])
        receiver.arrives_at = max(receiver.arrives_at, at)
        self.world.at(receiver.arrives_at, self._arrive, receiver, data)

    def _arrive(self, receiver: SimTransport, data: bytes | None) -> None:
        way = receiver.remote[0], receiver.local[0]
        if receiver.local[0] in self._down:
            return
        if receiver.held or way in self._cuts:
            if not receiver.held:
                patience = receiver.other.user_timeout_seconds or PATIENCE_SECONDS
                receiver.held_since = self.world.now
                self.world.after(patience, self._lose_patience, receiver, self.world.now)
            receiver.held.append(data)
            return
        receiver.arrive(data)

    def _lose_patience(self, receiver: SimTransport, since: float) -> None:
        """Give up a connection on which nothing has come through for long."""
        if receiver.held and receiver.held_since == since:
            receiver.other.broken(TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT)))
            self.reset(receiver)

    def reset(self, transport: SimTransport) -> None:
        """Let one end hear that the other is no more, behind all that was sent to it."""
        delay = self._delay(transport.remote[0], transport.local[0])
        at = max(transport.arrives_at, self.world.now + delay)
        self.world.at(at, self._reset, transport)

    def _reset(self, transport: SimTransport) -> None:
        if (transport.remote[0], transport.local[0]) in self._cuts:
            self._hold(transport.remote[0], transport.local[0], lambda: self._reset(transport))
            return
        self._transports.pop(transport.number, None)
        self._transports.pop(transport.other.number, None)
        transport.broken(ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET)))

    def _send_or_hold(self, source: str, target: str, action: Callable[[], Any]) -> None:
        def arrive() -> None:
            if (source, target) in self._cuts:
                self._hold(source, target, action)
            else:
                action()

        self.world.after(self._delay(source, target), arrive)

    def _hold(self, source: str, target: str, action: Callable[[], Any]) -> None:
        self._hung.append((source, target, action))

    # ---- what can happen ----------------------------------------------------------------------

    def cut(self, source: str, target: str) -> None:
        """Let nothing through from one host to another; cuts count."""
        self._cuts[source, target] = self._cuts.get((source, target), 0) + 1

    def heal(self, source: str, target: str) -> None:
        """Take one cut back; what was held up arrives."""
        count = self._cuts.get((source, target), 0) - 1
        if count > 0:
            self._cuts[source, target] = count
            return
        self._cuts.pop((source, target), None)
        for transport in list(self._transports.values()):
            if (transport.remote[0], transport.local[0]) == (source, target) and transport.held:
                held, transport.held = transport.held, type(transport.held)()
                for data in held:
                    transport.arrive(data)
        hung, self._hung = self._hung, []
        for way in hung:
            if way[:2] == (source, target):
                way[2]()
            else:
                self._hung.append(way)

    def break_some(self, host: str, chance: float) -> None:
        """Reset some connections of a host at both ends: what was on its way is lost."""
        for transport in list(self._transports.values()):
            is_local = transport.local[0] == transport.remote[0]
            if transport.local[0] == host and not is_local and self.world.chance(chance):
                self._reset(transport)
                self._reset(transport.other)

    def process_ended(self, loop: SimLoop) -> None:
        """Close all that a process had open: its host's kernel tells the peers."""
        for listeners in self._listeners.values():
            listeners[:] = [each for each in listeners if each.loop is not loop]
        for transport in list(loop.transports.values()):
            transport.is_broken = True
            if loop.host not in self._down:
                self.reset(transport.other)
        loop.transports.clear()

    def host_down(self, host: str) -> None:
        """Let a host vanish without a word."""
        self._down.add(host)

    def host_up(self, host: str) -> None:
        """Let a host be there again; what it knows of no more is reset."""
        self._down.discard(host)
        for transport in list(self._transports.values()):
            if transport.remote[0] == host and transport.other.is_broken:
                self.reset(transport)


def _refuse(made: Made) -> None:
    if not made.done():
        made.set_exception(
            ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
        )


def _establish(
    loop: SimLoop, near: SimTransport, factory: Callable[[], asyncio.Protocol], made: Made
) -> None:
    if made.done():
        # Whoever wanted it has lost patience.
        near.network.reset(near.other)
        return
    protocol = factory()
    near.begin(loop, protocol)
    if not made.done():
        made.set_result((near, protocol))
