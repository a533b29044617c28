"""Tests of rafterd.peer_status."""

from rafter_transport import Channel
from rafterd.peer_status import publish_peers
from rafterd.shared import PeerWord, SharedState
from tests.transport.support import Peer, addresses, make_hello, run


def test_the_words_of_a_node_are_what_the_exchanger_tells_of_it() -> None:
    async def main() -> None:
        nodes = addresses(1, 2)
        shared = SharedState(1, 1, (1, 2))
        async with Peer(make_hello(1), nodes) as first, Peer(make_hello(2), nodes) as second:
            await first.until_up(2)
            first.send(2, 0, Channel.REQUEST, b"x" * 500)
            await second.recorder.until(lambda: bool(second.recorder.of(Channel.REQUEST)))
            publish_peers(shared, 0, first.exchanger)
            # A node that the words do not foresee is left out.
            publish_peers(SharedState(1, 1), 0, first.exchanger)
        words = shared.peer_words(0, 2)
        assert words is not None
        assert words[PeerWord.FRAMES_SENT_TOTAL] == words[PeerWord.LINKS_UP] == 1
        assert words[PeerWord.BYTES_SENT_TOTAL] > 500
        assert words[PeerWord.ROUND_TRIP_MICROSECONDS] > 0

    run("uvloop", main())
