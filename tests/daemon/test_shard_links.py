import os
import socket

import pytest

from rafter_transport.ring_pair import RingEnd, is_supported
from rafterd.control import ControlError, ControlMessage
from rafterd.shard_links import ShardLinks, received_end, send_end
from tests.daemon.control_ends import Ends, receive
from tests.transport.support import every_kind_of_link


def test_rings_are_the_default_where_they_are_to_be_had() -> None:
    assert ShardLinks("auto").has_rings == is_supported()
    assert ShardLinks("ring").has_rings
    assert not ShardLinks("socket").has_rings


@every_kind_of_link
def test_an_end_survives_its_way_to_another_process(ends: Ends, kind: str) -> None:
    ours, theirs = ShardLinks(kind).make()
    send_end(ends[0], 5, theirs)
    theirs.close()
    other, end = received_end(receive(ends[1]))
    assert other == 5
    if isinstance(ours, RingEnd):
        assert isinstance(end, RingEnd)
        assert (ours.side, end.side) == (0, 1)
        assert end.generation == ours.generation
        one, another = ours.map(1000), end.map(1000)
        assert one.producer.push(b"frame")
        one.producer.kick()
        assert another.consumer.pop_all(10) == [b"frame"]
        one.release()
        another.release()
    else:
        assert isinstance(end, socket.socket)
        ours.send(b"frame")
        assert end.recv(10) == b"frame"
        assert not end.getblocking()
    ours.close()
    end.close()


@pytest.mark.skipif(not is_supported(), reason="no rings on this machine")
def test_no_two_pairs_of_rings_have_the_same_generation() -> None:
    links = ShardLinks("ring")
    generations = []
    for _ in range(3):
        ends = links.make()
        assert all(isinstance(end, RingEnd) for end in ends)
        generations += [end.generation for end in ends if isinstance(end, RingEnd)]
        for end in ends:
            end.close()
    assert generations[::2] == generations[1::2]
    assert len(set(generations)) == 3


@pytest.mark.parametrize(
    "message",
    [
        ("link", [], 1),
        ("link", ["1"], 1),
        ("link", [1], 2),
        ("rings", [1, 0], 4),
        ("rings", [1, 0, 1], 3),
    ],
)
def test_descriptors_of_an_impossible_link_are_closed(
    message: tuple[str, list[object], int],
) -> None:
    name, arguments, count = message
    descriptors = [os.dup(0) for _ in range(count)]
    with pytest.raises(ControlError, match="no link"):
        received_end(ControlMessage(name, arguments, descriptors))
    for descriptor in descriptors:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)
