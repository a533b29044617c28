"""What the transport counts: plain integers, read by whoever publishes them."""


class Counters:
    """Totals since the start of this shard's transport. Written on its loop only.

    `raft_dropped_total` counts what was refused for RAFT, which nobody sends again as such;
    `posts_refused_total` for the other channels, whose callers were told. Of an item that was
    joined from parts each part counts.
    `items_oversized_total` counts, within both, the items that no frame could hold.
    `connections_idle_total` counts connections, dialled or accepted, on which nothing came for too
    long.
    `tls_refused_total` counts connections, dialled or accepted, that ended because one end did not
    speak TLS or did not accept the other's certificate.
    """

    __slots__ = (
        "bad_frames_total",
        "bytes_received_total",
        "bytes_sent_total",
        "connect_failures_total",
        "connections_accepted_total",
        "connections_idle_total",
        "connections_over_limit_total",
        "frames_received_total",
        "frames_sent_total",
        "handshakes_refused_total",
        "items_oversized_total",
        "links_down_total",
        "links_up_total",
        "posts_refused_total",
        "raft_dropped_total",
        "tls_refused_total",
    )

    def __init__(self) -> None:
        self.frames_sent_total = 0
        self.bytes_sent_total = 0
        self.frames_received_total = 0
        self.bytes_received_total = 0
        self.bad_frames_total = 0
        self.raft_dropped_total = 0
        self.posts_refused_total = 0
        self.items_oversized_total = 0
        self.links_up_total = 0
        self.links_down_total = 0
        self.connect_failures_total = 0
        self.connections_accepted_total = 0
        self.connections_idle_total = 0
        self.connections_over_limit_total = 0
        self.handshakes_refused_total = 0
        self.tls_refused_total = 0

    def as_dict(self) -> dict[str, int]:
        """Return all totals by name."""
        return {name: getattr(self, name) for name in self.__slots__}
