"""The outbox over a link that records."""

from hypothesis import given
from hypothesis import strategies as st

from rafter_transport import Channel, Counters
from rafter_transport.outbox import NodeOutboxes, Outbox
from rafter_transport.payload import pack_item, unpack_payload
from rafter_transport.peer_counters import PeerCounters


class RecordingLink:
    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.pending_bytes = 0

    def send(self, payload: bytes) -> None:
        self.sent.append(payload)

    def close(self) -> None:
        self.sent.append(b"closed")

    def abort(self) -> None:
        self.sent.append(b"aborted")


@given(
    st.lists(st.tuples(st.sampled_from(list(Channel)), st.binary(max_size=90)), max_size=60),
    st.integers(30, 200),
)
def test_frames_keep_to_the_limit_and_each_channel_to_its_order(
    posts: list[tuple[Channel, bytes]], frame_bytes_max: int
) -> None:
    link, counters, peer = RecordingLink(), Counters(), PeerCounters()
    outbox = Outbox(link, frame_bytes_max, counters, peer)
    taken: list[tuple[Channel, bytes]] = []
    for channel, item in posts:
        packed = pack_item(item)
        if outbox.fits(packed):
            outbox.add(channel, packed)
            taken.append((channel, item))
    assert outbox.pending_bytes == sum(len(pack_item(item)) for _, item in taken)
    outbox.flush()
    assert outbox.queued_bytes == 0
    assert all(len(frame) <= frame_bytes_max for frame in link.sent)
    received: list[tuple[int, bytes]] = []
    for frame in link.sent:
        parts = unpack_payload(frame)
        assert parts, "no frame without items"
        received += [(channel, item) for channel, items in parts for item in items]
    for channel in Channel:
        assert [item for kind, item in received if kind == channel] == [
            item for kind, item in taken if kind == channel
        ]
    assert counters.frames_sent_total == len(link.sent)
    assert counters.bytes_sent_total == sum(4 + len(frame) for frame in link.sent)
    assert peer.frames_sent_total == counters.frames_sent_total
    assert peer.bytes_sent_total == counters.bytes_sent_total


def test_one_flush_makes_one_frame_of_all_channels() -> None:
    link = RecordingLink()
    outbox = Outbox(link, 1000, Counters(), PeerCounters())
    for channel in (Channel.REPLY, Channel.RAFT, Channel.REPLY):
        outbox.add(channel, pack_item(1))
    outbox.flush()
    outbox.flush()
    assert link.sent == [b"\x92\x92\x03\x92\x01\x01\x92\x01\x91\x01"]


def test_a_cleared_outbox_sends_nothing() -> None:
    link = RecordingLink()
    outbox = Outbox(link, 30, Counters(), PeerCounters())
    for _ in range(10):
        outbox.add(Channel.RAFT, pack_item(bytes(10)))
    outbox.clear()
    outbox.flush()
    assert link.sent == []
    link.pending_bytes = 7
    assert outbox.pending_bytes == 7


@given(
    st.integers(1, 300),
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 120), st.integers(0, 40)), max_size=60),
)
def test_all_shards_of_a_node_together_keep_to_their_bound_and_use_it(
    bytes_max: int, steps: list[tuple[int, int, int]]
) -> None:
    links = [RecordingLink() for _ in range(3)]
    outboxes = [Outbox(link, 1000, Counters(), PeerCounters()) for link in links]
    together = NodeOutboxes(bytes_max)
    together.outboxes.update(outboxes)
    for which, size, leaving in steps:
        waiting = sum(outbox.pending_bytes for outbox in outboxes)
        packed = bytes(size)
        assert together.take(size) == (waiting + size <= bytes_max)
        if waiting + size <= bytes_max:
            outboxes[which].add(Channel.RAFT, packed)
        # Some of it leaves: into the socket, and from there.
        link, outbox = links[leaving % 3], outboxes[leaving % 3]
        link.pending_bytes += outbox.queued_bytes
        outbox.clear()
        link.pending_bytes = max(0, link.pending_bytes - leaving)
