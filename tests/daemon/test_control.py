import contextlib
import os
import socket

import msgpack
import pytest

from rafterd.control import (
    CONTROL_BYTES_MAX,
    ControlError,
    receive_control,
    send_control,
    send_fatal,
)
from tests.daemon.control_ends import Ends, receive


def test_a_message_arrives_whole_with_its_descriptors(
    ends: Ends,
) -> None:
    reader, writer = os.pipe()
    send_control(ends[0], "link", 3, descriptors=(writer,))
    send_control(ends[0], "serving")
    os.close(writer)
    message = receive(ends[1])
    assert (message.name, message.arguments, len(message.descriptors)) == ("link", [3], 1)
    os.write(message.descriptors[0], b"through")
    assert os.read(reader, 10) == b"through"
    os.close(message.descriptors[0])
    os.close(reader)
    assert receive_control(ends[1]) == ("serving", [], [])


def test_an_empty_socket_raises_and_a_closed_one_is_none(
    ends: Ends,
) -> None:
    with pytest.raises(BlockingIOError):
        receive_control(ends[1])
    ends[0].close()
    assert receive_control(ends[1]) is None


def fill(control: socket.socket) -> int:
    sent = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            send_control(control, "log", "debug")
            sent += 1
    return sent


def test_a_full_socket_raises_and_sends_nothing(ends: Ends) -> None:
    sent = fill(ends[0])
    with pytest.raises(BlockingIOError):
        send_control(ends[0], "log", "debug")
    for _ in range(sent):
        assert receive(ends[1]).name == "log"
    with pytest.raises(BlockingIOError):
        receive_control(ends[1])


@pytest.mark.parametrize(
    "packet",
    [
        b"\xc1", b"\x93", msgpack.packb({"a": 1}), msgpack.packb([]), msgpack.packb([1]),
        msgpack.packb("x"), b"\x91\xa1", b"a" * (CONTROL_BYTES_MAX + 1), b"\x91\xa1\xff",
    ],
)  # fmt: skip
def test_nonsense_is_an_error_and_its_descriptors_are_closed(ends: Ends, packet: bytes) -> None:
    reader, writer = os.pipe()
    socket.send_fds(ends[0], [packet], [writer])
    os.close(writer)
    with pytest.raises(ControlError):
        receive_control(ends[1])
    assert os.read(reader, 1) == b""
    os.close(reader)


def test_a_message_too_large_is_the_senders_fault(
    ends: Ends,
) -> None:
    with pytest.raises(ValueError, match="control message log"):
        send_control(ends[0], "log", "x" * CONTROL_BYTES_MAX)


def test_a_fatal_text_is_cut_and_never_fails(ends: Ends) -> None:
    send_fatal(ends[0], "x" * 10_000)
    assert receive(ends[1]).arguments == ["x" * 1000]
    ends[1].close()
    send_fatal(ends[0], "nobody hears")
