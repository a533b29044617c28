import pytest

from rafter_transport.express_limits import ExpressLimits
from rafterd.config import Config, ConfigError, load_config
from rafterd.config_check import listening_ports

THREE = "1@127.0.0.1:17379,2@127.0.0.1:17479,3@127.0.0.1:17579"


PEER_TLS = {"peer__tls_certificate": "crt", "peer__tls_key": "key", "peer__tls_ca": "ca"}


def complaints(**settings: str) -> dict[str, str]:
    """Return {key: what is allowed} of a configuration that must be refused."""
    overrides = {"node.shards": "2"} | {k.replace("__", "."): v for k, v in settings.items()}
    with pytest.raises(ConfigError) as caught:
        load_config(overrides=overrides)
    found = {}
    for problem in caught.value.problems:
        _origin, key, rest = problem.split(": ", 2)
        found[key] = rest
    return found


def accepted(**settings: str) -> Config:
    overrides = {"node.shards": "2"} | {k.replace("__", "."): v for k, v in settings.items()}
    return load_config(overrides=overrides).config


def test_a_node_listens_on_the_documented_ports() -> None:
    ports = listening_ports(accepted())
    assert [(port.address.port, port.purpose) for port in ports] == [
        (7379, "clients of all shards"),
        (7380, "clients of shard 0"),
        (7381, "clients of shard 1"),
        (17379, "peers of shard 0"),
        (17380, "peers of shard 1"),
        (9379, "health and metrics"),
    ]


@pytest.mark.parametrize(
    ("settings", "key", "text"),
    [
        ({"http__listen": "127.0.0.1:7379"}, "http.listen", "clients of all shards"),
        ({"http__listen": "127.0.0.1:7381"}, "http.listen", "clients of shard 1"),
        ({"http__listen": "127.0.0.1:17380"}, "http.listen", "peers of shard 1"),
        ({"peer__listen": "127.0.0.1:7378"}, "peer.listen", "clients of all shards"),
        ({"peer__listen": "127.0.0.1:7381"}, "peer.listen", "clients of shard 1"),
        ({"client__listen": "0.0.0.0:9378", "client__insecure": "true"}, "http.listen", "9379"),
        ({"client__listen": "localhost:9378"}, "http.listen", "clients of shard 0"),
    ],
)
def test_two_uses_of_one_port_are_named(settings: dict[str, str], key: str, text: str) -> None:
    found = complaints(**settings)
    assert list(found) == [key]
    assert text in found[key]


def test_the_same_port_on_another_interface_is_no_clash() -> None:
    accepted(http__listen="127.0.0.2:7379")


def test_shards_of_this_machine_count_in_the_clash() -> None:
    found = complaints(node__shards="64", http__listen="127.0.0.1:7443")
    assert "clients of shard 63" in found["http.listen"]
    accepted(node__shards="63", http__listen="127.0.0.1:7443")


def test_ports_beyond_the_last_are_refused() -> None:
    found = complaints(client__listen="127.0.0.1:65534", peer__listen="127.0.0.1:65535")
    assert "clients of shard 1 would listen on 65536" in found["client.listen"]
    assert "peers of shard 1 would listen on 65536" in found["peer.listen"]
    accepted(client__listen="127.0.0.1:65533")


def test_the_own_id_must_be_a_member() -> None:
    found = complaints(node__id="4", cluster__initial=THREE)
    assert found == {"node.id": "found 4; allowed: an id listed in cluster.initial: 1, 2, 3"}


def test_the_own_peer_port_must_be_the_one_the_others_dial() -> None:
    found = complaints(node__id="2", cluster__initial=THREE)
    assert found["peer.listen"].endswith("the port that cluster.initial gives to node 2: 17479")


def test_a_loopback_listener_is_refused_when_others_dial_another_address() -> None:
    initial = "1@10.0.0.1:17379,2@10.0.0.2:17379"
    found = complaints(cluster__initial=initial)
    assert "an address that other nodes reach" in found["peer.listen"]
    accepted(cluster__initial=initial, peer__listen="10.0.0.1:17379", peer__insecure="true")


@pytest.mark.parametrize(
    ("initial", "text"),
    [
        ("1@127.0.0.1:17379,1@127.0.0.1:17479", "id 1 is listed twice"),
        ("1@127.0.0.1:17379,2@127.0.0.1:17379", "127.0.0.1:17379 is listed twice"),
        ("1@127.0.0.1:17379,2@0.0.0.0:17479", "an address that the other nodes can connect to"),
        ("1@127.0.0.1:17379,2", "the node id is missing"),
        ("1@127.0.0.1:17379,2@[::1:17479", "needs brackets"),
    ],
)
def test_impossible_members_are_refused(initial: str, text: str) -> None:
    assert text in complaints(cluster__initial=initial)["cluster.initial"]


def test_peer_ports_of_nodes_on_one_host_must_not_overlap() -> None:
    initial = "1@127.0.0.1:17379,2@127.0.0.1:17380"
    assert "node 2 listens on" in complaints(cluster__initial=initial)["peer.listen"]
    accepted(cluster__initial=initial, node__shards="1")


def test_replication_is_bounded_by_the_nodes() -> None:
    found = complaints(cluster__initial=THREE, cluster__replication="4")
    assert found["cluster.replication"].endswith("the number of nodes in cluster.initial, 3")
    assert "cluster.replication" in complaints(cluster__replication="2")
    assert "cluster.replication" in complaints(cluster__replication="0")


@pytest.mark.parametrize("listen", ["0.0.0.0:17379", "10.1.2.3:17379", "db1.example:17379"])
def test_a_peer_listener_beyond_loopback_must_be_called_insecure(listen: str) -> None:
    found = complaints(peer__listen=listen)
    assert "or peer.insecure = true" in found["peer.listen"]
    accepted(peer__listen=listen, peer__insecure="true")
    accepted(peer__listen=listen, **PEER_TLS)


@pytest.mark.parametrize("listen", ["0.0.0.0:7379", "10.1.2.3:7379", "db1.example:7379"])
def test_a_client_listener_beyond_loopback_has_tls_or_must_be_called_insecure(listen: str) -> None:
    found = complaints(client__listen=listen)
    assert "or client.insecure = true" in found["client.listen"]
    accepted(client__listen=listen, client__insecure="true")
    accepted(client__listen=listen, client__tls_certificate="crt", client__tls_key="key")


def test_the_files_of_tls_come_together() -> None:
    accepted(**PEER_TLS)
    for missing in PEER_TLS:
        found = complaints(**{key: value for key, value in PEER_TLS.items() if key != missing})
        assert list(found) == [missing.replace("__", ".")]
        assert "a file, since peer.tls_" in found[missing.replace("__", ".")]
    # The authority of clients is theirs to choose: without one they need no certificate.
    client = {"client__tls_certificate": "crt", "client__tls_key": "key"}
    accepted(**client, client__tls_ca="ca")
    assert list(complaints(client__tls_ca="ca")) == ["client.tls_certificate", "client.tls_key"]
    assert list(complaints(client__tls_key="key")) == ["client.tls_certificate"]
    assert "client.tls_key" in complaints(client__tls_certificate="crt", client__tls_key="a\0b")


def test_a_name_of_nodes_has_the_id_in_it() -> None:
    accepted(peer__tls_name="n{id}.blue.example.org")
    for wrong in ("node", "{id}-{id}", "node {id}"):
        assert "host name" in complaints(peer__tls_name=wrong)["peer.tls_name"]


def test_a_wildcard_listener_needs_a_name_for_clients() -> None:
    wild = {"client__listen": "0.0.0.0:7379", "client__insecure": "true"}
    open_peer = {"peer__listen": "0.0.0.0:17379", "peer__insecure": "true"}
    assert accepted(**wild).announce_host == "127.0.0.1"
    assert "client.announce_host" in complaints(**wild, **open_peer)
    assert accepted(**wild, **open_peer, client__announce_host="db1").announce_host == "db1"
    initial = "1@10.0.0.1:17379,2@10.0.0.2:17379"
    assert accepted(**wild, **open_peer, cluster__initial=initial).announce_host == "10.0.0.1"
    assert "client.announce_host" in complaints(client__announce_host="db1:7379")
    assert "client.announce_host" in complaints(client__announce_host="0.0.0.0")
    assert accepted(client__announce_host="::1").announce_host == "::1"


def test_a_node_announces_where_the_others_dial_it() -> None:
    initial = "1@db1.example:17379,2@10.0.0.2:17379"
    listen = {"peer__listen": "0.0.0.0:17379", "peer__insecure": "true"}
    assert accepted(**listen, cluster__initial=initial).peer_address == ("db1.example", 17379)
    announced = accepted(**listen, cluster__initial=initial, peer__announce_host="10.9.9.9")
    assert announced.peer_address == ("10.9.9.9", 17379)
    assert "peer.announce_host" in complaints(peer__announce_host="10.9.9.9:17379")
    assert "peer.announce_host" in complaints(peer__announce_host="0.0.0.0")
    assert accepted().peer_address == ("127.0.0.1", 17379)


@pytest.mark.parametrize(("heartbeat", "election"), [("6", "12"), ("1", "2")])
def test_an_election_needs_more_than_two_heartbeats(heartbeat: str, election: str) -> None:
    settings = {"raft__heartbeat_ticks": heartbeat, "raft__election_timeout_ticks": election}
    assert "raft.election_timeout_ticks" in complaints(**settings)
    settings["raft__election_timeout_ticks"] = str(int(election) + 1)
    accepted(**settings)


def test_a_buffer_must_hold_what_goes_through_it() -> None:
    small = str(4 << 20)
    found = complaints(
        client__query_buffer_bytes_max=small,
        raft__uncommitted_bytes_max=small,
        storage__segment_bytes=small,
    )
    assert list(found) == [
        "client.query_buffer_bytes_max",
        "raft.uncommitted_bytes_max",
        "storage.segment_bytes",
    ]


def test_a_path_has_no_nul() -> None:
    assert "NUL" in complaints(node__data_dir="a\0b")["node.data_dir"]


def test_the_rate_of_snapshots_is_enough_for_the_shards_that_share_it() -> None:
    """Below it a receiver might give up a sender that waits for its turn."""
    lowest = 4 * accepted_rate(transfers_max=4)
    text = complaints(node__shards="4", snapshot__bytes_per_second=str(lowest - 4))
    assert "for one: bytes_per_second" in text["snapshot.bytes_per_second"]
    accepted(node__shards="4", snapshot__bytes_per_second=str(lowest))
    accepted(node__shards="4", snapshot__bytes_per_second="0")


def accepted_rate(transfers_max: int) -> int:
    """The least rate of one shard with so many transfers at once."""
    limits = ExpressLimits(sends_max=transfers_max)
    return int(2 * transfers_max * limits.chunk_bytes_max / limits.progress_seconds) + 1
