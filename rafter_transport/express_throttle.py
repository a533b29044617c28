"""The throttle: how long to wait so that all transfers together keep to a rate."""


class Throttle:
    """A token bucket of bytes. Time is the caller's, in seconds; it never goes back.

    Whoever reserves goes into debt and waits until the debt is paid, so reservations are served in
    their order, and one larger than the bucket is still served. The bucket holds what
    `burst_seconds` bring: how much may follow an idle time at once.
    """

    __slots__ = ("_burst_bytes", "_level_bytes", "_rate", "_updated_seconds")

    def __init__(
        self, bytes_per_second: int | None, now_seconds: float, *, burst_seconds: float = 0.1
    ) -> None:
        """Begin with a full bucket; None for no limit. Raises ValueError for a rate below 1."""
        if bytes_per_second is not None and bytes_per_second < 1:
            raise ValueError(f"bytes_per_second = {bytes_per_second}: must be at least 1")
        self._rate = bytes_per_second
        self._burst_bytes = (bytes_per_second or 0) * burst_seconds
        self._level_bytes = self._burst_bytes
        self._updated_seconds = now_seconds

    def reserve(self, length_bytes: int, now_seconds: float) -> float:
        """Take `length_bytes` out of the bucket; return the seconds to wait before sending them."""
        if self._rate is None:
            return 0.0
        elapsed_seconds = max(0.0, now_seconds - self._updated_seconds)
        self._updated_seconds = max(now_seconds, self._updated_seconds)
        self._level_bytes = min(self._burst_bytes, self._level_bytes + elapsed_seconds * self._rate)
        self._level_bytes -= length_bytes
        return max(0.0, -self._level_bytes / self._rate)
