"""Pairs of rings and their ends: memory, descriptors, and what comes of a wrong one."""

import os
import platform
import socket
import sys

import pytest

from rafter_transport.ring import RING_BYTES_MIN, RingError
from rafter_transport.ring_pair import RingEnd, is_supported, make_ring_pair

pytestmark = pytest.mark.skipif(not is_supported(), reason="no rings on this machine")


def open_descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


def test_each_end_takes_what_the_other_pushes() -> None:
    one, other = make_ring_pair(3)
    mapped, theirs = one.map(100), other.map(100)
    assert mapped.producer.push(b"there")
    assert theirs.producer.push(b"back")
    assert theirs.consumer.pop_all(9) == [b"there"]
    assert mapped.consumer.pop_all(9) == [b"back"]
    for rings, end in ((mapped, one), (theirs, other)):
        rings.release()
        end.close()


def test_each_side_wakes_the_other() -> None:
    one, other = make_ring_pair()
    mapped, theirs = one.map(100), other.map(100)
    assert theirs.consumer.prepare_sleep()
    mapped.producer.push(b"x")
    assert mapped.producer.kick()
    assert os.eventfd_read(other.event_descriptor) == 1
    with pytest.raises(BlockingIOError):
        os.eventfd_read(one.event_descriptor)
    for rings, end in ((mapped, one), (theirs, other)):
        rings.release()
        end.close()


def test_closing_leaves_no_descriptor() -> None:
    before = open_descriptors()
    ends = make_ring_pair()
    assert len(open_descriptors()) == len(before) + 8
    for end in ends:
        end.close()
        end.close()
    assert open_descriptors() == before


def test_an_end_that_closes_is_seen_at_the_lifeline_of_the_other() -> None:
    one, other = make_ring_pair()
    with pytest.raises(BlockingIOError):
        one.lifeline.recv(1)
    other.close()
    assert one.lifeline.recv(1) == b""
    one.close()


def test_descriptors_are_not_inherited_by_other_programs() -> None:
    ends = make_ring_pair()
    assert not any(os.get_inheritable(number) for end in ends for number in end.descriptors)
    for end in ends:
        end.close()


def test_memory_of_another_generation_is_refused() -> None:
    one, other = make_ring_pair(4)
    one.generation = 5
    with pytest.raises(RingError, match="generation 5"):
        one.map(100)
    one.close()
    other.close()


def test_memory_that_is_no_pair_of_rings_is_refused() -> None:
    memory = os.memfd_create("test")
    os.ftruncate(memory, 1000)
    event, lifeline = os.eventfd(0), socket.socketpair()
    end = RingEnd((memory, event, os.dup(event), lifeline[0].detach()), 0, 0)
    with pytest.raises(RingError, match="1000 bytes"):
        end.map(100)
    end.close()
    lifeline[1].close()


def test_nobody_can_shrink_the_memory_under_the_other_side() -> None:
    one, other = make_ring_pair()
    with pytest.raises(PermissionError):
        os.ftruncate(one.memory_descriptor, 0)
    one.close()
    other.close()


@pytest.mark.parametrize("ring_bytes", [0, RING_BYTES_MIN - 1, RING_BYTES_MIN // 2, 100, 3 << 10])
def test_an_impossible_size_is_refused(ring_bytes: int) -> None:
    with pytest.raises(ValueError, match="power of two"):
        make_ring_pair(0, ring_bytes)


def test_a_system_without_descriptors_leaves_none_open(monkeypatch: pytest.MonkeyPatch) -> None:
    before = open_descriptors()
    real_dup = os.dup
    for fail_at in range(8):
        made: list[int] = []

        def dup(descriptor: int, fail_at: int = fail_at, made: list[int] = made) -> int:
            made.append(descriptor)
            if len(made) > fail_at:
                raise OSError(24, "Too many open files")
            return real_dup(descriptor)

        with monkeypatch.context() as patch:
            patch.setattr(os, "dup", dup)
            with pytest.raises(OSError, match="Too many"):
                make_ring_pair()
        assert open_descriptors() == before


def test_rings_are_for_one_kind_of_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(platform, "machine", lambda: "aarch64")
        assert not is_supported()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "platform", "darwin")
        assert not is_supported()


def test_a_system_that_forbids_a_memfd_has_no_rings(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object) -> int:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "memfd_create", forbidden)
    assert not is_supported()
