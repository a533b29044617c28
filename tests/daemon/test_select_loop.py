import selectors
import socket
from collections.abc import Callable, Iterator

import pytest

from rafterd.select_loop import run_turn

Pairs = list[tuple[socket.socket, socket.socket]]


@pytest.fixture
def pairs() -> Iterator[Pairs]:
    made = [socket.socketpair() for _ in range(2)]
    yield made
    for pair in made:
        for end in pair:
            end.close()


def make_ready(pairs: Pairs) -> None:
    for reader, writer in pairs:
        writer.send(b"x")
        assert reader.recv(1, socket.MSG_PEEK) == b"x"


def test_every_ready_descriptor_is_called_with_its_events(
    pairs: Pairs,
) -> None:
    make_ready(pairs)
    called: list[object] = []
    with selectors.DefaultSelector() as selector:
        for reader, _writer in pairs:
            selector.register(reader, selectors.EVENT_READ, called.append)
        run_turn(selector, 0)
    assert called == [selectors.EVENT_READ] * 2


def test_a_descriptor_closed_by_an_earlier_callback_is_left_out(
    pairs: Pairs,
) -> None:
    """Found when two shards died in one turn: the second control socket was already closed."""
    make_ready(pairs)
    called: list[object] = []
    with selectors.DefaultSelector() as selector:

        def close_both(_mask: int) -> None:
            called.append(1)
            for reader, _writer in pairs:
                selector.unregister(reader)
                reader.close()

        for reader, _writer in pairs:
            selector.register(reader, selectors.EVENT_READ, close_both)
        run_turn(selector, 0)
    assert called == [1]


def test_a_number_that_went_to_another_descriptor_is_left_out(
    pairs: Pairs,
) -> None:
    make_ready(pairs)
    called: list[object] = []
    opened: list[socket.socket] = []
    with selectors.DefaultSelector() as selector:

        def replace_the_other(own: int) -> Callable[[int], None]:
            def callback(_mask: int) -> None:
                called.append(own)
                other = pairs[1 - own][0]
                number = other.fileno()
                selector.unregister(other)
                other.close()
                opened.extend(socket.socketpair())
                for end in opened:
                    if end.fileno() == number:
                        selector.register(end, selectors.EVENT_READ, lambda _: called.append("new"))

            return callback

        for own in range(2):
            selector.register(pairs[own][0], selectors.EVENT_READ, replace_the_other(own))
        run_turn(selector, 0)
        assert len(called) == 1
        assert any(end in selector.get_map() for end in opened)
    for end in opened:
        end.close()
