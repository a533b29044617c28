"""Real nodes with a proxy before each shard of each, which all that they say passes."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.cluster.kit import HOST, Cluster
from tests.faults.proxy import Proxy

PROXY_HOST = "127.0.0.2"


class Network:
    """The proxies of a cluster: `to[node]` are those through which all others reach that node.

    A connection carries what the node that dialled it has to say, so to cut node 1 off: cut
    `to[1]`, and `to` of all others for node 1 alone.
    """

    def __init__(self, to: dict[int, list[Proxy]]) -> None:
        self.to = to

    def __iter__(self) -> Iterator[Proxy]:
        """All of them."""
        for proxies in self.to.values():
            yield from proxies


@contextlib.contextmanager
def cluster_behind_proxies(
    directory: Path,
    nodes: int = 3,
    *,
    shards: int = 1,
    groups: int = 3,
    replication: int = 3,
    extra: Mapping[str, str] | None = None,
) -> Iterator[tuple[Cluster, Network]]:
    """Run a cluster and its network for the length of a with statement.

    Its nodes give up a connection on which nothing comes after three seconds. `extra` are further
    lines of configuration, as `Cluster` takes them.
    """
    cluster = Cluster(
        directory,
        nodes,
        shards=shards,
        groups=groups,
        replication=replication,
        extra={"peer": "idle_seconds = 3", **(extra or {})},
        peer_host=PROXY_HOST,
    )
    with contextlib.ExitStack() as stack:
        network = Network(
            {
                node.node: [
                    stack.enter_context(
                        Proxy(
                            (HOST, node.peer_port + shard),
                            host=PROXY_HOST,
                            port=node.peer_port + shard,
                            is_framed=True,
                        )
                    )
                    for shard in range(shards)
                ]
                for node in cluster
            }
        )
        try:
            cluster.start()
            yield cluster, network
        finally:
            cluster.stop()
