import os
import selectors
import signal
from collections.abc import Iterator

import pytest

from rafterd.signals import SignalPipe


@pytest.fixture
def pipe() -> Iterator[SignalPipe]:
    pipe = SignalPipe((signal.SIGUSR1, signal.SIGUSR2))
    yield pipe
    pipe.close()


def test_signals_are_read_in_order_of_arrival_and_once_each(pipe: SignalPipe) -> None:
    for number in (signal.SIGUSR2, signal.SIGUSR1, signal.SIGUSR2):
        os.kill(os.getpid(), number)
    assert pipe.read() == [signal.SIGUSR2, signal.SIGUSR1]
    assert pipe.read() == []


def test_a_signal_wakes_a_selector(pipe: SignalPipe) -> None:
    with selectors.DefaultSelector() as selector:
        selector.register(pipe.descriptor, selectors.EVENT_READ)
        assert selector.select(0) == []
        os.kill(os.getpid(), signal.SIGUSR1)
        assert len(selector.select(5)) == 1


def test_a_flood_of_signals_neither_blocks_nor_fails(pipe: SignalPipe) -> None:
    for _ in range(20_000):
        os.kill(os.getpid(), signal.SIGUSR1)
    os.kill(os.getpid(), signal.SIGUSR2)
    assert pipe.read()[0] == signal.SIGUSR1


def test_closing_restores_the_handlers_of_before() -> None:
    before = signal.getsignal(signal.SIGUSR1)
    pipe = SignalPipe((signal.SIGUSR1,))
    assert signal.getsignal(signal.SIGUSR1) is not before
    pipe.close()
    assert signal.getsignal(signal.SIGUSR1) is before
    assert signal.set_wakeup_fd(-1) == -1
