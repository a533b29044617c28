"""What one key of the configuration demands of another: addresses, ports, members, TLS, ticks.

Each check yields problems instead of raising, so that a user reads all of them at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from rafter_transport.tls import check_name_pattern
from rafterd.address import ADDRESS_FORM, PORT_MAX, Address, parse_address, parse_member
from rafterd.config_schema import Config

MEMBER_FORM = "id@host:port, for example 1@127.0.0.1:17379"


class Problem(NamedTuple):
    """One thing wrong: the key (section.key), the value found, and what is allowed."""

    key: str
    found: object
    allowed: str


class Port(NamedTuple):
    """A port that some process of this node listens on, and the words for it in messages."""

    key: str
    address: Address
    purpose: str


def check(config: Config) -> list[Problem]:
    """Return everything wrong with a configuration whose keys are each of the right type."""
    problems = list(_check_addresses(config))
    if problems:
        return problems  # the other checks need addresses that parse
    return [
        *_check_membership(config),
        *_check_ports(config),
        *_check_tls(config),
        *_check_exposure(config),
        *_check_ticks(config),
        *_check_sizes(config),
        *_check_snapshots(config),
    ]


def listening_ports(config: Config) -> list[Port]:
    """Return every port that this node listens on; `node.shards` must be resolved."""
    client, peer, http = config.client.address, config.peer.address, config.http.address
    ports = [Port("client.listen", client, "clients of all shards")]
    for shard in range(config.node.shards):
        address = Address(client.host, config.client.shard_port(shard))
        ports.append(Port("client.listen", address, f"clients of shard {shard}"))
    for shard in range(config.node.shards):
        address = Address(peer.host, config.peer.shard_port(shard))
        ports.append(Port("peer.listen", address, f"peers of shard {shard}"))
    ports.append(Port("http.listen", http, "health and metrics"))
    return ports


def _check_addresses(config: Config) -> Iterator[Problem]:
    if "\0" in config.node.data_dir:
        yield Problem("node.data_dir", config.node.data_dir, "a path, without a NUL character")
    for key, text in (
        ("client.listen", config.client.listen),
        ("peer.listen", config.peer.listen),
        ("http.listen", config.http.listen),
    ):
        try:
            parse_address(text)
        except ValueError as error:
            yield Problem(key, text, f"{error}; allowed: {ADDRESS_FORM}")
    for text in config.cluster.initial:
        try:
            parse_member(text)
        except ValueError as error:
            yield Problem("cluster.initial", text, f"{error}; allowed: {MEMBER_FORM}")
    for key, host in (
        ("client.announce_host", config.client.announce_host),
        ("peer.announce_host", config.peer.announce_host),
    ):
        if host:
            yield from _check_announced(key, host)


def _check_announced(key: str, host: str) -> Iterator[Problem]:
    try:
        announced = parse_address(f"[{host}]:1" if ":" in host else f"{host}:1")
    except ValueError as error:
        yield Problem(key, host, f"{error}; allowed: a host, no port")
    else:
        if announced.is_wildcard:
            yield Problem(key, host, "a host that others can connect to")


def _check_membership(config: Config) -> Iterator[Problem]:
    members = [parse_member(item) for item in config.cluster.initial]
    seen_ids: set[int] = set()
    seen_addresses: set[Address] = set()
    for (node, address), text in zip(members, config.cluster.initial, strict=True):
        if node in seen_ids:
            yield Problem("cluster.initial", text, f"each node once, but id {node} is listed twice")
        if address in seen_addresses:
            yield Problem(
                "cluster.initial", text, f"each address once, but {address} is listed twice"
            )
        if address.is_wildcard:
            yield Problem("cluster.initial", text, "an address that the other nodes can connect to")
        seen_ids.add(node)
        seen_addresses.add(address)
    own = config.node.id
    if members and own not in seen_ids:
        ids = ", ".join(str(node) for node in sorted(seen_ids))
        yield Problem("node.id", own, f"an id listed in cluster.initial: {ids}")
    for node, address in members:
        if node == own and address.port != config.peer.port:
            yield Problem(
                "peer.listen",
                config.peer.listen,
                f"the port that cluster.initial gives to node {own}: {address.port}",
            )
        if node == own and config.peer.address.is_loopback and address.is_foreign:
            yield Problem(
                "peer.listen",
                config.peer.listen,
                f"an address that other nodes reach: cluster.initial sends them to {address}",
            )
    node_count = len(seen_ids) or 1
    if config.cluster.replication > node_count:
        yield Problem(
            "cluster.replication",
            config.cluster.replication,
            f"1 to the number of nodes in cluster.initial, {node_count}",
        )


def _check_ports(config: Config) -> Iterator[Problem]:
    ports = listening_ports(config)
    reported: set[tuple[str, str]] = set()
    for position, port in enumerate(ports):
        if port.address.port > PORT_MAX and (port.key, "") not in reported:
            reported.add((port.key, ""))
            yield Problem(
                port.key,
                _listen(config, port.key),
                f"a port low enough for {config.node.shards} shards: "
                f"{port.purpose} would listen on {port.address.port}",
            )
        for other in ports[:position]:
            clash = other.address.port == port.address.port and (
                other.address.may_share_interface(port.address)
            )
            if clash and (other.key, port.key) not in reported:
                reported.add((other.key, port.key))
                yield Problem(
                    port.key,
                    _listen(config, port.key),
                    f"a port of its own: {port.address.port} would serve {other.purpose} "
                    f"({other.key} = {_listen(config, other.key)}) and {port.purpose}",
                )
    yield from _check_neighbours(config)


def _check_neighbours(config: Config) -> Iterator[Problem]:
    """Nodes on one host whose ranges of peer ports overlap (as in a cluster on loopback)."""
    own_id = config.node.id
    if own_id not in config.nodes:
        return
    own = config.nodes[own_id]
    for node, address in config.nodes.items():
        distance = address.port - own.port
        if node != own_id and address.host == own.host and 0 < distance < config.node.shards:
            yield Problem(
                "peer.listen",
                config.peer.listen,
                f"{config.node.shards} free ports, one for each shard: node {node} "
                f"listens on {address}",
            )


def _check_tls(config: Config) -> Iterator[Problem]:
    """Which files belong together; whether they can be used is seen when a node starts."""
    for key, section, needed in (
        ("peer", config.peer, ("tls_certificate", "tls_key", "tls_ca")),
        ("client", config.client, ("tls_certificate", "tls_key")),
    ):
        given = [name for name in (*needed, "tls_ca") if getattr(section, name)]
        for name in dict.fromkeys((*needed, "tls_ca")):
            value = getattr(section, name)
            if "\0" in value:
                yield Problem(f"{key}.{name}", value, "a path, without a NUL character")
            if given and not value and name in needed:
                yield Problem(
                    f"{key}.{name}", value, f"a file, since {key}.{given[0]} is set: TLS needs both"
                )
    problem = check_name_pattern(config.peer.tls_name)
    if problem is not None:
        yield Problem("peer.tls_name", config.peer.tls_name, problem)


def _check_exposure(config: Config) -> Iterator[Problem]:
    for key, section in (("peer", config.peer), ("client", config.client)):
        if not (section.address.is_loopback or section.has_tls or section.insecure):
            yield Problem(
                f"{key}.listen",
                section.listen,
                f"a loopback address, unless {key}.tls_certificate and {key}.tls_key are set, or "
                f"{key}.insecure = true: without TLS anyone who reaches this port can read and "
                "change all data; set it only on a network that you trust",
            )
    own = config.nodes.get(config.node.id, config.peer.address)
    client = config.client
    if client.address.is_wildcard and not client.announce_host and own.is_wildcard:
        yield Problem(
            "client.announce_host",
            "",
            "the host name or address that clients shall use, "
            f"since client.listen = {client.listen} names none",
        )


def _check_ticks(config: Config) -> Iterator[Problem]:
    heartbeat, election = config.raft.heartbeat_ticks, config.raft.election_timeout_ticks
    if election <= 2 * heartbeat:
        yield Problem(
            "raft.election_timeout_ticks",
            election,
            f"more than twice raft.heartbeat_ticks, so at least {2 * heartbeat + 1}",
        )


def _check_sizes(config: Config) -> Iterator[Problem]:
    client, peer, raft, storage = config.client, config.peer, config.raft, config.storage
    pairs = (
        ("client.query_buffer_bytes_max", client.query_buffer_bytes_max,
         "client.value_bytes_max", client.value_bytes_max),
        ("peer.frame_bytes_max", peer.frame_bytes_max,
         "raft.message_bytes_max", raft.message_bytes_max),
        ("peer.frame_bytes_max", peer.frame_bytes_max,
         "client.query_buffer_bytes_max", client.query_buffer_bytes_max),
        ("peer.pending_bytes_max", peer.pending_bytes_max,
         "peer.frame_bytes_max", peer.frame_bytes_max),
        ("peer.node_bytes_max", peer.node_bytes_max,
         "peer.pending_bytes_max", peer.pending_bytes_max),
        ("raft.uncommitted_bytes_max", raft.uncommitted_bytes_max,
         "client.value_bytes_max", client.value_bytes_max),
        ("storage.segment_bytes", storage.segment_bytes,
         "client.value_bytes_max", client.value_bytes_max),
    )  # fmt: skip
    for key, value, other_key, other_value in pairs:
        if value < other_value:
            yield Problem(key, value, f"at least {other_key}, {other_value}")


def _check_snapshots(config: Config) -> Iterator[Problem]:
    try:
        config.express_limits.validate()
    except ValueError as error:
        yield Problem(
            "snapshot.bytes_per_second",
            config.snapshot.bytes_per_second,
            f"0 for no bound, or enough for {config.node.shards} shards; for one: {error}",
        )


def _listen(config: Config, key: str) -> str:
    return {
        "client.listen": config.client.listen,
        "peer.listen": config.peer.listen,
        "http.listen": config.http.listen,
    }[key]
