"""Tests of rafter_transport.peer_counters, and of what the exchanger tells of each node."""

import socket

from rafter_transport import Channel
from rafter_transport.peer_counters import round_trip_seconds
from tests.transport.support import QUICK, Peer, addresses, every_loop, make_hello, run


@every_loop
def test_each_node_has_its_own_counts_and_its_links_a_round_trip(loop_kind: str) -> None:
    async def main() -> None:
        nodes = addresses(1, 2, 3)
        limits = QUICK._replace(frame_bytes_max=4096, pending_bytes_max=8192)
        async with (
            Peer(make_hello(1), nodes, limits=limits) as first,
            Peer(make_hello(2), nodes, limits=limits) as second,
        ):
            await first.until_up(2)
            await second.until_up(1)
            items = [bytes([number]) * 100 for number in range(8)]
            first.send(2, 0, Channel.REQUEST, *items)
            await second.recorder.until(lambda: second.recorder.of(Channel.REQUEST) == items)
            assert not first.exchanger.post(3, 0, Channel.RAFT, b"nobody is there")
            told = {node: (counters, state) for node, counters, state in first.exchanger.peers()}
            assert sorted(told) == [2, 3]
            counters, state = told[2]
            assert (counters.frames_sent_total, counters.refused_total) == (1, 0)
            assert counters.bytes_sent_total == first.exchanger.counters.bytes_sent_total > 800
            assert state.links_up == 1
            assert state.round_trip_seconds is not None
            assert 0 < state.round_trip_seconds < 1
            counters, state = told[3]
            assert (counters.frames_sent_total, counters.refused_total) == (0, 1)
            assert state == (0, 0, None)
            ((node, counters, _),) = second.exchanger.peers()
            assert (node, counters.frames_received_total) == (1, 1)
            assert counters.bytes_received_total == first.exchanger.counters.bytes_sent_total

    run(loop_kind, main())


def test_a_socket_that_is_no_tcp_connection_has_no_round_trip() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert round_trip_seconds(ours) is None
