"""The link between two shards of one node over a pair of rings in shared memory."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections import deque
from collections.abc import Callable

from rafter_transport.framing import FrameError
from rafter_transport.ring_pair import MappedRings, RingEnd

FRAMES_PER_POP = 256
"""How many frames are taken out of the ring at once, about."""
TURN_SECONDS = 0.001
"""How long one turn delivers before other callbacks of the loop have theirs."""
BELT_SECONDS = 0.01
"""How often frames that wait for room are tried again without having been woken."""
FRAME_OVERHEAD_BYTES = 8
"""Counted for each waiting frame beside its bytes, so that empty ones are bounded too."""


class RingLink:
    """A Link over one end of a pair of rings. Every method is called on `loop`, its shard's.

    It behaves as SocketLink does over a socketpair: `on_made(link)` is called once it can send,
    `on_frame(payload)` for each frame in order, and `on_lost(link)` exactly once, in a later loop
    iteration, when everything is unmapped and closed, then with the reason in `error` (None: closed
    in order, or the other process ended). What the other side had sent before it closed or
    died is delivered first. No frame is delivered after `close` or `abort`. What `on_frame`
    raises goes to the loop's exception handler, and the link is lost.

    Of the frames that are sent in one loop iteration the first is in the ring at once. Those behind
    it follow when the iteration ends, together.

    While frames come the ring is polled once per loop iteration; when an iteration found none
    the link sleeps on its eventfd. One turn delivers for TURN_SECONDS at most (and one frame at
    least). What the ring has no room for waits here, and is bounded by who sends: it asks
    `pending_bytes` first.
    """

    __slots__ = ("_backlog", "_backlog_bytes", "_belt", "_end", "_is_closing", "_is_kick_due",
                 "_is_peer_gone", "_is_released", "_is_turn_due", "_loop", "_on_lost", "_on_made",
                 "_rings", "_undelivered", "error", "lost", "on_frame")  # fmt: skip

    def __init__(
        self,
        end: RingEnd,
        frame_bytes_max: int,
        *,
        on_frame: Callable[[bytes], None],
        on_lost: Callable[[RingLink], None],
        on_made: Callable[[RingLink], None] | None = None,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        """Map the rings and take ownership of `end`, which is closed if this fails.

        Raises RingError for memory that is no pair of rings of the end's generation, and OSError.
        """
        try:
            self._rings: MappedRings = end.map(frame_bytes_max)
        except BaseException:
            end.close()
            raise
        self.on_frame = on_frame
        self.error: Exception | None = None
        self.lost: asyncio.Future[None] = loop.create_future()
        self._end = end
        self._loop = loop
        self._on_made = on_made
        self._on_lost = on_lost
        self._backlog: deque[bytes] = deque()
        self._backlog_bytes = 0
        self._undelivered: deque[bytes] = deque()
        self._belt: asyncio.TimerHandle | None = None
        self._is_kick_due = False
        self._is_turn_due = False
        self._is_peer_gone = False
        # Until `start`, as a SocketLink is before its socket is made.
        self._is_closing = True
        self._is_released = False

    @property
    def is_closing(self) -> bool:
        """Whether no frame goes out or comes in any more; true before `start`."""
        return self._is_closing

    @property
    def pending_bytes(self) -> int:
        """Bytes sent here that the ring has had no room for yet."""
        if self._is_released:
            return 0
        return self._backlog_bytes + self._rings.producer.unsent_bytes

    def start(self) -> None:
        """Begin to send and receive; `on_made` is called before this returns. Call at most once.

        Does nothing on a link that was closed already.
        """
        if self._is_released:
            return
        self._is_closing = False
        self._loop.add_reader(self._end.event_descriptor, self._on_event)
        self._loop.add_reader(self._end.lifeline.fileno(), self._on_lifeline)
        # The other side may have been sending since long before.
        self._plan_turn()
        if self._on_made is not None:
            self._on_made(self)

    def send(self, payload: bytes) -> None:
        """Send one frame. Never blocks; on a link that is closing the frame is lost."""
        # The first frame of an iteration is there for the other side at once. Those behind it
        # wait for the end of the iteration, and leave as bundles: many are cheaper together.
        if self._is_kick_due:
            self._backlog.append(payload)
            self._backlog_bytes += len(payload) + FRAME_OVERHEAD_BYTES
            return
        if self._is_closing or self._is_peer_gone:
            return
        if self._backlog or not self._push(payload):
            self._backlog.append(payload)
            self._backlog_bytes += len(payload) + FRAME_OVERHEAD_BYTES
        # Waking the other side costs a fence and perhaps a system call: once per iteration.
        if not self._is_released:
            self._is_kick_due = True
            self._loop.call_soon(self._kick)

    def close(self) -> None:
        """Close once everything sent has left. Nothing is received from here on.

        What has been put in the ring has left: the other side takes it, though this one has gone.
        """
        if self._is_released:
            return
        self._is_closing = True
        self._is_kick_due = False
        self._undelivered.clear()
        if self._is_peer_gone:
            self._release()
        else:
            self._send_waiting()

    def abort(self, error: Exception | None = None) -> None:
        """Close at once; what has not left is lost. `error` is kept as the reason."""
        if self.error is None:
            self.error = error
        self._release()

    # What follows is called by the loop, or on behalf of it.

    def _on_event(self) -> None:
        """Wake up: there are frames, or there is room."""
        if self._is_released:
            return
        try:  # noqa: SIM105 - `suppress` would cost half as much as the system call
            os.eventfd_read(self._end.event_descriptor)
        except BlockingIOError:
            pass
        if not self._is_turn_due:
            self._turn()

    def _on_lifeline(self) -> None:
        """Notice that the other side has closed or died; nothing is ever sent on the lifeline."""
        if self._is_released:
            return
        with contextlib.suppress(OSError):
            self._end.lifeline.recv(1)
        self._loop.remove_reader(self._end.lifeline.fileno())
        self._is_peer_gone = True
        self._is_kick_due = False
        self._drop_waiting()
        if self._is_closing:
            self._release()
        else:
            self._plan_turn()

    def _plan_turn(self) -> None:
        if not self._is_turn_due and not self._is_released:
            self._is_turn_due = True
            self._loop.call_soon(self._run_planned_turn)

    def _run_planned_turn(self) -> None:
        self._is_turn_due = False
        if not self._is_released:
            self._turn()

    def _turn(self) -> None:
        """Deliver what there is, send what waits; then poll again, sleep or end."""
        if not self._is_closing:
            consumer = self._rings.consumer
            consumer.awake()
            taken_bytes = consumer.taken_bytes
            if not self._deliver():
                return
            has_worked = consumer.taken_bytes != taken_bytes
            if has_worked or self._undelivered:
                self._plan_turn()
            elif self._is_peer_gone:
                # Its last store came before the end of its lifeline.
                if consumer.is_empty:
                    self._release()
                    return
                self._plan_turn()
            elif not consumer.prepare_sleep():
                self._plan_turn()
        if self._is_kick_due:
            # What was sent in answer need not wait for the next iteration.
            self._kick()
        elif self._is_waiting:
            self._send_waiting()

    def _deliver(self) -> bool:
        """Deliver frames for TURN_SECONDS at most; whether the link is still open after them."""
        undelivered = self._undelivered
        clock = time.perf_counter
        until_seconds = clock() + TURN_SECONDS
        if not undelivered:
            try:
                undelivered.extend(self._rings.consumer.pop_all(FRAMES_PER_POP))
            except FrameError as error:
                self.abort(error)
                return False
        try:
            while undelivered:
                self.on_frame(undelivered.popleft())
                if self._is_closing:
                    return False
                if clock() >= until_seconds:
                    break
        except Exception as error:  # noqa: BLE001 - as a loop does for what a protocol raises
            self._loop.call_exception_handler(
                {"message": "on_frame of a ring link failed", "exception": error}
            )
            self.abort(error)
            return False
        return True

    @property
    def _is_waiting(self) -> bool:
        return bool(self._backlog) or self._rings.producer.unsent_bytes > 0

    def _push(self, payload: bytes) -> bool:
        """Push one frame; impossible content of the ring ends the link, and takes the frame."""
        try:
            return self._rings.producer.push(payload)
        except FrameError as error:
            self.abort(error)
            return True

    def _kick(self) -> None:
        if not self._is_kick_due:
            return
        self._is_kick_due = False
        if self._is_waiting:
            self._send_waiting()
        else:
            self._rings.producer.kick()

    def _send_waiting(self) -> None:
        """Push what waits as far as there is room, wake the other side, and see to the rest."""
        producer = self._rings.producer
        backlog = self._backlog
        until_seconds = time.perf_counter() + TURN_SECONDS
        try:
            has_room = producer.advance()
            # The other side may take as fast as this one pushes: the ring's size is no bound.
            while has_room and backlog and time.perf_counter() < until_seconds:
                taken = producer.push_some(backlog)
                has_room = taken > 0
                self._forget(taken)
        except FrameError as error:
            self.abort(error)
            return
        producer.kick()
        if self._is_waiting:
            self._wait_for_room()
        elif self._is_closing:
            self._release()

    def _forget(self, count: int) -> None:
        """Drop the first frames of the backlog, which the ring has taken."""
        backlog = self._backlog
        if count == len(backlog):
            backlog.clear()
            self._backlog_bytes = 0
            return
        for _ in range(count):
            self._backlog_bytes -= len(backlog.popleft()) + FRAME_OVERHEAD_BYTES

    def _wait_for_room(self) -> None:
        """Come back when the other side has taken something, or to see whether it has.

        There may be room still, if the turn was over before. Then what this turn has pushed is what
        the other side takes next.
        """
        if not self._rings.producer.prepare_wait():
            self._plan_turn()
        elif self._belt is None:
            self._belt = self._loop.call_later(BELT_SECONDS, self._on_belt)

    def _on_belt(self) -> None:
        self._belt = None
        if not self._is_released and self._is_waiting:
            self._send_waiting()

    def _drop_waiting(self) -> None:
        """Forget what has not left: nobody will take it."""
        self._backlog.clear()
        self._backlog_bytes = 0
        self._rings.producer.drop_rest()

    def _release(self) -> None:
        """Unmap and close everything, and tell the owner in a later iteration; once."""
        if self._is_released:
            return
        self._is_released = True
        self._is_closing = True
        self._is_kick_due = False
        self._undelivered.clear()
        self._backlog.clear()
        self._backlog_bytes = 0
        if self._belt is not None:
            self._belt.cancel()
        self._loop.remove_reader(self._end.event_descriptor)
        self._loop.remove_reader(self._end.lifeline.fileno())
        self._rings.release()
        self._end.close()
        self._loop.call_soon(self._tell_lost)

    def _tell_lost(self) -> None:
        self._on_lost(self)
        if not self.lost.done():
            self.lost.set_result(None)
