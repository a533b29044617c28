"""The limits of express in one table."""

from typing import NamedTuple

from rafter_transport.express_messages import OVERHEAD_BYTES
from rafter_transport.framing import LENGTH_MAX
from rafter_transport.handshake import TEXT_CHARACTERS_MAX

_TEXT_BYTES_MAX = 4 * TEXT_CHARACTERS_MAX


class ExpressLimits(NamedTuple):
    """What the transfers of one shard may use, and how long they wait.

    `sends_max` and `receives_max` transfers run at once, each with at most one call to the disk;
    `waiting_max` further sends wait for their turn. A transfer has `window_bytes` in flight (and
    never less than one chunk), and so has its receiver in memory. `bytes_per_second` bounds what
    all sends of the shard put on the wire together; None for no bound.

    `progress_seconds` is how long the other end may bring nothing; `finish_seconds`, how long it
    may take to make the whole durable after the last chunk. A broken transfer is tried
    `tries_max` times without a chunk of progress.
    """

    sends_max: int = 4
    receives_max: int = 4
    waiting_max: int = 1024
    chunk_bytes_max: int = 1 << 20
    manifest_bytes_max: int = 4 << 20
    message_bytes_max: int = 1 << 20
    window_bytes: int = 4 << 20
    bytes_per_second: int | None = None
    progress_seconds: float = 30.0
    finish_seconds: float = 120.0
    linger_seconds: float = 2.0
    close_seconds: float = 5.0
    tries_max: int = 16
    retry_base_seconds: float = 0.1
    retry_factor: float = 2.0
    retry_cap_seconds: float = 1.0

    @property
    def frame_bytes_max(self) -> int:
        """The longest payload of a frame that these limits allow."""
        offer_bytes = self.manifest_bytes_max + self.message_bytes_max
        return OVERHEAD_BYTES + max(self.chunk_bytes_max, offer_bytes, _TEXT_BYTES_MAX)

    def window_chunks(self, chunk_bytes: int) -> int:
        """Return how many chunks of this length may be in flight."""
        return max(1, self.window_bytes // max(1, chunk_bytes))

    def validate(self) -> None:
        """Raise ValueError naming the first impossible value and what is allowed."""
        for name in self._fields:
            value = getattr(self, name)
            if name == "waiting_max":
                if value < 0:
                    raise ValueError(f"waiting_max = {value}: must be at least 0")
            elif name.endswith(("_max", "_bytes")) and value < 1:
                raise ValueError(f"{name} = {value}: must be at least 1")
            elif name.endswith("_seconds") and value <= 0:
                raise ValueError(f"{name} = {value}: must be more than 0")
        if self.frame_bytes_max > LENGTH_MAX:
            raise ValueError(f"frames of {self.frame_bytes_max} bytes: at most {LENGTH_MAX}")
        if self.retry_factor < 1:
            raise ValueError(f"retry_factor = {self.retry_factor}: must be at least 1")
        if self.retry_cap_seconds < self.retry_base_seconds:
            raise ValueError(
                f"retry_cap_seconds = {self.retry_cap_seconds}: must be at least "
                f"retry_base_seconds ({self.retry_base_seconds})"
            )
        if self.bytes_per_second is not None:
            # A chunk waits for those of all other sends; the receiver must not give it up then.
            lowest = int(2 * self.sends_max * self.chunk_bytes_max / self.progress_seconds) + 1
            if self.bytes_per_second < lowest:
                raise ValueError(
                    f"bytes_per_second = {self.bytes_per_second}: must be at least {lowest}, so "
                    f"that {self.sends_max} sends progress within {self.progress_seconds} s"
                )
