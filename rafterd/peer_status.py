"""What a shard says of its links to each node, in the words that the node's metrics are made of."""

from rafter_transport.exchanger import Exchanger
from rafterd.shared import PeerWord, SharedState

__all__ = ["publish_peers"]


def publish_peers(shared: SharedState, shard: int, exchanger: Exchanger) -> None:
    """Store the words of every node that this shard has had to do with. About once a second."""
    for node, counters, state in exchanger.peers():
        words = shared.peer_words(shard, node)
        if words is None:
            # It was not in the configuration when this node started.
            continue
        words[PeerWord.FRAMES_SENT_TOTAL] = counters.frames_sent_total
        words[PeerWord.BYTES_SENT_TOTAL] = counters.bytes_sent_total
        words[PeerWord.FRAMES_RECEIVED_TOTAL] = counters.frames_received_total
        words[PeerWord.BYTES_RECEIVED_TOTAL] = counters.bytes_received_total
        words[PeerWord.REFUSED_TOTAL] = counters.refused_total
        words[PeerWord.LINKS_UP] = state.links_up
        words[PeerWord.PENDING_BYTES] = state.pending_bytes
        words[PeerWord.ROUND_TRIP_MICROSECONDS] = round((state.round_trip_seconds or 0) * 1e6)
