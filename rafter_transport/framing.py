"""Frames: the unit in which bytes travel between processes.

A frame is its payload's length as an unsigned 32-bit little-endian number, and the payload. The
length is checked against the limit before a byte of the payload is kept: four bytes from a stranger
never make this process allocate more than was received.
"""

import struct

HEADER_BYTES = 4
LENGTH_MAX = (1 << 32) - 1

_LENGTH = struct.Struct("<I")
_pack_length = _LENGTH.pack
_unpack_length = _LENGTH.unpack_from


class FrameError(Exception):
    """The peer announced a frame above the limit. The stream has no meaning from here on."""


class Budget:
    """What the unfinished frames of several connections may hold together, and what they do."""

    __slots__ = ("bytes_max", "held_bytes")

    def __init__(self, bytes_max: int) -> None:
        self.bytes_max = bytes_max
        self.held_bytes = 0


def frame_header(payload_bytes: int) -> bytes:
    """Return the header of a frame whose payload has this length."""
    return _pack_length(payload_bytes)


class FrameDecoder:
    """Cuts a byte stream into payloads, whatever the chunks it arrives in.

    Keeps at most one unfinished frame: `frame_bytes_max` (of payload) and a header. A frame that
    lies within one chunk is copied once, one that spans chunks twice.
    """

    __slots__ = ("_partial", "frame_bytes_max")

    def __init__(self, frame_bytes_max: int) -> None:
        self.frame_bytes_max = frame_bytes_max
        self._partial = bytearray()

    @property
    def partial_bytes(self) -> int:
        """How much of an unfinished frame is held."""
        return len(self._partial)

    def feed(self, data: bytes) -> list[bytes]:
        """Take the next chunk and return the payloads that it completes, in order.

        Raises FrameError for a length above the limit; frames before it in the same chunk are
        given up too, as the connection must be closed.
        """
        frames: list[bytes] = []
        position = self._resume(data, frames) if self._partial else 0
        end = len(data)
        while end - position >= HEADER_BYTES:
            (length,) = _unpack_length(data, position)
            if length > self.frame_bytes_max:
                raise self._too_long(length)
            begin = position + HEADER_BYTES
            if begin + length > end:
                break
            position = begin + length
            frames.append(data[begin:position])
        if position < end:
            with memoryview(data) as view:
                self._partial += view[position:]
        return frames

    def _resume(self, data: bytes, frames: list[bytes]) -> int:
        """Continue the unfinished frame; return the position in `data` behind what was taken."""
        partial = self._partial
        position = 0
        if len(partial) < HEADER_BYTES:
            position = HEADER_BYTES - len(partial)
            partial += data[:position]
            if len(partial) < HEADER_BYTES:
                return len(data)
        length: int = _unpack_length(partial)[0]
        if length > self.frame_bytes_max:
            raise self._too_long(length)
        missing = HEADER_BYTES + length - len(partial)
        with memoryview(data) as view:
            partial += view[position : position + missing]
        if len(partial) < HEADER_BYTES + length:
            return len(data)
        with memoryview(partial) as view:
            frames.append(bytes(view[HEADER_BYTES:]))
        # A new buffer, so that one large frame does not pin its memory for the link's lifetime.
        self._partial = bytearray()
        return position + missing

    def _too_long(self, length: int) -> FrameError:
        return FrameError(f"frame of {length} bytes is above the limit of {self.frame_bytes_max}")
