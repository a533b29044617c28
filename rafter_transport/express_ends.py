"""What express asks of those who keep snapshots, and what its parts share.

Express knows no files: it reads chunks from a Source and gives them to a Sink. Their calls that may
touch the disk run on a worker thread, one at a time for each Source and Sink.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeVar

from rafter_transport.express_limits import ExpressLimits
from rafter_transport.express_throttle import Throttle
from rafter_transport.peer_log import PeerLog

_logger = logging.getLogger(__name__)
Result = TypeVar("Result")


class SourceError(Exception):
    """The snapshot cannot be read on. The transfer ends, and is not tried again."""


class SinkError(Exception):
    """The snapshot cannot be taken, or not be kept. `code` goes to the sender with the text.

    The codes in `express_messages.RETRIED_CODES` make the sender try again, others do not.
    """

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


class Run(Protocol):
    """Runs a function on a worker thread; its awaiter gets the result or the exception."""

    def __call__(self, function: Callable[[], Result], /) -> Awaitable[Result]:
        """Begin at once, or as soon as a thread is free."""


class Source(Protocol):
    """One snapshot to send: its manifest and its chunks, numbered through all files from 0."""

    @property
    def chunk_count(self) -> int:
        """How many chunks there are; 0 for a snapshot without data."""

    @property
    def chunk_bytes(self) -> int:
        """The length of the longest chunk; 0 without chunks."""

    def read_manifest(self) -> bytes:
        """Return what the Sink needs to judge the snapshot. Worker thread. Raises SourceError."""

    def read_chunk(self, number: int) -> bytes:
        """Return one chunk. Worker thread, any order. Raises SourceError."""

    def close(self) -> None:
        """Let go of the snapshot. Loop thread, once, with no other call under way."""


class Opened(NamedTuple):
    """What a Sink has: `next_chunk` of `chunk_count` chunks, none longer than `chunk_bytes`."""

    next_chunk: int
    chunk_count: int
    chunk_bytes: int


class Sink(Protocol):
    """Where one offered snapshot goes. Made on the loop; it is used for one connection.

    Exactly one of these is called at last: `finish` that returned, `suspend`, or `abort`.
    """

    async def begin(self, run: Run) -> Opened:
        """Judge the manifest and tell which chunks are there already. Raises SinkError."""

    def write_chunk(self, number: int, data: bytes) -> None:
        """Write the chunk that is due. Worker thread. Raises SinkError."""

    async def finish(self, run: Run) -> None:
        """Verify the whole; durable and in use on return. Raises SinkError."""

    def suspend(self) -> None:
        """Keep what is there, so that a later Sink for the same manifest can go on with it.

        Loop thread, at once, with no other call under way.
        """

    async def abort(self, run: Run) -> None:
        """Remove what is there, as far as the disk allows; also after an error of any call."""


class ExpressCounters:
    """Totals since the start of this shard's express. Written on its loop only.

    A send ends in exactly one of finished, refused, failed, timed_out, cancelled and peer_gone; so
    does each connection that brought an offer. `resumed` counts those that did not begin at
    chunk 0, `retried` the further tries of sends.
    """

    __slots__ = (
        "bad_messages_total", "bytes_received_total", "bytes_sent_total", "chunks_received_total",
        "chunks_sent_total", "connect_failures_total", "lanes_over_limit_total",
        "receives_cancelled_total", "receives_failed_total", "receives_finished_total",
        "receives_peer_gone_total", "receives_refused_total", "receives_resumed_total",
        "receives_started_total", "receives_timed_out_total", "sends_cancelled_total",
        "sends_failed_total", "sends_finished_total", "sends_peer_gone_total",
        "sends_refused_total", "sends_resumed_total", "sends_retried_total",
        "sends_started_total", "sends_timed_out_total",
    )  # fmt: skip

    def __init__(self) -> None:
        self.bad_messages_total = 0
        self.bytes_received_total = 0
        self.bytes_sent_total = 0
        self.chunks_received_total = 0
        self.chunks_sent_total = 0
        self.connect_failures_total = 0
        self.lanes_over_limit_total = 0
        self.receives_cancelled_total = 0
        self.receives_failed_total = 0
        self.receives_finished_total = 0
        self.receives_peer_gone_total = 0
        self.receives_refused_total = 0
        self.receives_resumed_total = 0
        self.receives_started_total = 0
        self.receives_timed_out_total = 0
        self.sends_cancelled_total = 0
        self.sends_failed_total = 0
        self.sends_finished_total = 0
        self.sends_peer_gone_total = 0
        self.sends_refused_total = 0
        self.sends_resumed_total = 0
        self.sends_retried_total = 0
        self.sends_started_total = 0
        self.sends_timed_out_total = 0

    def add(self, name: str, count: int = 1) -> None:
        """Add to the total of this name, without `_total`."""
        setattr(self, f"{name}_total", getattr(self, f"{name}_total") + count)

    def as_dict(self) -> dict[str, int]:
        """Return all totals by name."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class Workshop:
    """What the transfers of one shard have in common."""

    node: int
    limits: ExpressLimits
    throttle: Throttle
    counters: ExpressCounters
    executor: ThreadPoolExecutor
    log: PeerLog
    loop: asyncio.AbstractEventLoop

    def run(self, function: Callable[[], Result], /) -> "asyncio.Future[Result]":
        """Run a function on a worker thread."""
        return self.loop.run_in_executor(self.executor, function)

    def report_error(self, what: str, error: BaseException) -> None:
        """Let an error of ours reach the loop's handler; it ends a transfer and nothing else."""
        self.loop.call_exception_handler({"message": what, "exception": error})


def make_workshop(node: int, limits: ExpressLimits, loop: asyncio.AbstractEventLoop) -> Workshop:
    """Return a workshop with as many threads as transfers may run at once."""
    limits.validate()
    return Workshop(
        node=node,
        limits=limits,
        throttle=Throttle(limits.bytes_per_second, loop.time()),
        counters=ExpressCounters(),
        executor=ThreadPoolExecutor(
            limits.sends_max + limits.receives_max, thread_name_prefix="express"
        ),
        log=PeerLog(_logger),
        loop=loop,
    )
