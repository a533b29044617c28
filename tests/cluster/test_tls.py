"""TLS of real nodes: what works with it, and whoever is refused, counted and logged.

Certificates are those of `rafterd cert`. Node 1 has two shards; node 3 asks its clients for
certificates.
"""

from __future__ import annotations

import json
import re
import signal
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import redis
from redis.cluster import RedisCluster

from rafter_transport.framing import HEADER_BYTES, frame_header
from rafter_transport.handshake import VERSION_MAX, VERSION_MIN, Hello, decode_answer, encode_hello
from rafterd.certificates import Authority, Issued, make_authority, open_authority
from rafterd.config import load_config
from tests import warm
from tests.cluster.kit import HOST, Cluster, Node, running_cluster, wait_for

SECONDS = 10.0
NODES = (1, 2, 3)
TLS_1_2 = ssl.TLSVersion.TLSv1_2


class Certificates:
    """The authority of the cluster, another one, and what both have issued."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "tls"
        self.ca = make_authority(self.directory, "test", 10).certificate
        self.authority = open_authority(self.directory)
        for node in NODES:
            self.issue_node(node)
        self.client = self.authority.issue_client("app", 10)
        other = directory / "other"
        make_authority(other, "other", 10)
        self.stranger: Authority = open_authority(other)

    def issue_node(self, node: int) -> None:
        """Write a node's certificate, anew if there is one."""
        for path in self.files(node):
            path.unlink(missing_ok=True)
        self.authority.issue_node(f"node-{node}", [HOST], 10)

    def files(self, node: int) -> Issued:
        return Issued(self.directory / f"node-{node}.crt", self.directory / f"node-{node}.key")

    def lines(self, node: int) -> str:
        """Return the keys of both sections."""
        certificate, key = self.files(node)
        return f'tls_certificate = "{certificate}"\ntls_key = "{key}"'

    def expired(self, name: str) -> Issued:
        """Issue a certificate that is valid up to now."""
        directory = self.directory / "expired"
        directory.mkdir(exist_ok=True)
        return self.authority._replace(directory=directory).issue_node(name, [], 0)

    def context(
        self, files: Issued | None = None, highest: ssl.TLSVersion | None = None
    ) -> ssl.SSLContext:
        """Return the context of an end that dials, with these files or none."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(self.ca)
        context.check_hostname = False
        if files is not None:
            context.load_cert_chain(*files)
        if highest is not None:
            context.maximum_version = highest
        return context


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def cluster(
    tmp_path_factory: pytest.TempPathFactory, certificates: Certificates
) -> Iterator[Cluster]:
    ca = f'tls_ca = "{certificates.ca}"'
    extra = {
        node: {
            "peer": f"{certificates.lines(node)}\n{ca}",
            "client": certificates.lines(node) + (f"\n{ca}" if node == 3 else ""),
        }
        for node in NODES
    }
    with running_cluster(
        tmp_path_factory.mktemp("tls"),
        3,
        shards_of_node={1: 2},
        extra={"snapshot": "log_bytes = 65536"},
        extra_of_node=extra,
    ) as running:
        yield running


def total(node: Node, name: str) -> float:
    """Return a counter of a node, over all its shards."""
    text = node.http("/metrics")[1]
    found = re.findall(rf"^{name}_total\{{shard=\"\d+\"\}} (\S+)$", text, re.MULTILINE)
    assert found, f"{name} is not in {text}"
    return sum(map(float, found))


def wait_for_total(node: Node, name: str, expected: float) -> None:
    """Wait for a counter, which is published now and then; it must not go beyond."""
    wait_for(lambda: total(node, name) >= expected, f"{name} reaches {expected}")
    assert total(node, name) == expected


def count_lines(node: Node, pattern: str) -> int:
    return sum(re.search(pattern, line) is not None for line in node.log().splitlines())


def connect(
    node: Node, certificates: Certificates, files: Issued | None = None, port: int = 0
) -> redis.Redis:
    certificate, key = map(str, files) if files is not None else (None, None)
    return redis.Redis(
        host=HOST,
        port=port or node.client_port,
        ssl=True,
        ssl_ca_certs=str(certificates.ca),
        ssl_certfile=certificate,
        ssl_keyfile=key,
        socket_timeout=SECONDS,
    )


# ---- what works ------------------------------------------------------------------------------


def test_redis_py_is_served_by_every_node(cluster: Cluster, certificates: Certificates) -> None:
    for node in cluster:
        with connect(node, certificates, certificates.client) as client:
            assert client.set(f"tls:{node.node}", "x" * 300_000)
        with connect(cluster[1], certificates) as client:
            assert client.strlen(f"tls:{node.node}") == 300_000
    certificate, key = map(str, certificates.client)
    whole = RedisCluster(
        host=HOST,
        port=cluster[2].client_port,
        ssl=True,
        ssl_ca_certs=str(certificates.ca),
        ssl_certfile=certificate,
        ssl_keyfile=key,
    )
    for number in range(50):
        assert whole.set(f"tls:{number}", number)
        assert whole.get(f"tls:{number}") == b"%d" % number
    whole.close()


def run_cli(cluster: Cluster, *arguments: object) -> subprocess.CompletedProcess[bytes]:
    words = ("--endpoints", cluster.endpoints, *map(str, arguments))
    return warm.run("rafter_kv.cli", *words, timeout=30)


def test_rafter_cli_is_served_and_every_link_is_up(
    cluster: Cluster, certificates: Certificates
) -> None:
    certificate, key = certificates.client
    tls = ("--cacert", certificates.ca, "--cert", certificate, "--key", key)
    assert run_cli(cluster, "put", "cli", "hello", *tls).stdout == b"OK\n"
    done = run_cli(cluster, "status", "-o", "json", *tls)
    assert done.returncode == 0, done.stderr
    status = json.loads(done.stdout)
    assert [node["state"] for node in status["nodes"]] == ["up"] * 3
    assert [group["leader"] in NODES for group in status["groups"]] == [True] * 3
    # Without a certificate there are two nodes left, and one alone says why it is not the third.
    assert run_cli(cluster, "get", "cli", "--cacert", certificates.ca).stdout == b"hello"
    refused = run_cli(
        cluster, "get", "cli", "--cacert", certificates.ca, "--endpoints", cluster[3].endpoint
    )
    assert refused.returncode == 5
    assert b"TLS: tlsv13 alert certificate required" in refused.stderr
    in_the_clear = run_cli(cluster, "get", "cli")
    assert in_the_clear.returncode == 5
    assert in_the_clear.stderr.count(b"this port takes TLS connections only") == 3


# ---- who is refused at a peer port -----------------------------------------------------------


class Stranger(NamedTuple):
    """Who dials the peer port of node 1 as another, and what the node has to say about it."""

    reason: str
    files: Issued | None
    counter: str = "rafter_peer_tls_refused"
    is_secured: bool = True
    highest: ssl.TLSVersion | None = None
    cluster_id: int | None = None
    node: int = 2


def strangers(certificates: Certificates) -> dict[str, Stranger]:
    node_2 = certificates.files(2)
    return {
        "wrong CA": Stranger(
            "certificate is not accepted: .*(issuer|self-signed|signature)",
            certificates.stranger.issue_node("node-2", [], 10),
        ),
        "expired": Stranger("certificate has expired", certificates.expired("node-2")),
        "of another node": Stranger(
            "is not that of node 2: .* 'node-3'", certificates.files(3)
        ),
        "of a client": Stranger("is not that of node 3: .* 'app'", certificates.client, node=3),
        "none": Stranger("peer did not return a certificate", None),
        "plaintext": Stranger("the peer does not speak TLS here", None, is_secured=False),
        "TLS 1.2": Stranger("unsupported protocol", node_2, highest=TLS_1_2),
        "another cluster": Stranger(
            "other cluster: .* cluster id 0000000000000005", node_2,
            "rafter_peer_handshakes_refused", cluster_id=5,
        ),
    }  # fmt: skip


def say_hello(node: Node, certificates: Certificates, stranger: Stranger) -> None:
    """Dial shard 0 of a node, and fail if it answers anything but a refusal, if at all."""
    config = load_config(node.config_path).config
    hello = Hello(
        version_min=VERSION_MIN,
        version_max=VERSION_MAX,
        cluster_id=config.cluster_id if stranger.cluster_id is None else stranger.cluster_id,
        node_id=stranger.node,
        incarnation=1,
        shard=0,
        shards=1,
        client_host=HOST,
        client_port=7379,
    )
    payload = encode_hello(hello)
    stream = socket.create_connection((HOST, node.peer_port), SECONDS)
    try:
        if stranger.is_secured:
            context = certificates.context(stranger.files, stranger.highest)
            stream = context.wrap_socket(stream)
        stream.sendall(frame_header(len(payload)) + payload)
        answer = b""
        while chunk := stream.recv(65536):
            answer += chunk
    except OSError:  # an alert, or the end without one
        return
    finally:
        stream.close()
    if stranger.is_secured and answer:
        with pytest.raises(Exception, match="refused by the peer: .*" + stranger.reason):
            decode_answer(answer[HEADER_BYTES:])


def test_strangers_at_a_peer_port_are_refused_counted_and_logged_once_a_minute(
    cluster: Cluster, certificates: Certificates
) -> None:
    node = cluster[1]
    accepted = count_lines(node, "connected to")
    for kind, stranger in strangers(certificates).items():
        pattern = f"(connection closed|handshake refused): .*{stranger.reason}"
        assert count_lines(node, pattern) == 0, kind
        expected = total(node, stranger.counter) + 3
        for _ in range(3):
            say_hello(node, certificates, stranger)
        wait_for_total(node, stranger.counter, expected)
        assert count_lines(node, pattern) == 1, f"{kind}: {node.log_tail()}"
    # The links of the real node 2 have not noticed.
    assert count_lines(node, "connected to") == accepted
    assert count_lines(node, "connection lost") == 0


# ---- who is refused at a client port ---------------------------------------------------------


def ping(node: Node, context: ssl.SSLContext | None) -> bytes:
    """Return what a node's client port answers to a PING."""
    stream = socket.create_connection((HOST, node.client_port), SECONDS)
    try:
        if context is not None:
            stream = context.wrap_socket(stream)
        stream.sendall(b"PING\r\n")
        return stream.recv(65536)
    finally:
        stream.close()


def test_clients_are_refused_counted_and_logged_once_a_minute(
    cluster: Cluster, certificates: Certificates
) -> None:
    node = cluster[3]
    context, client = certificates.context, certificates.client
    assert ping(node, context(client)) == b"+PONG\r\n"
    in_the_clear = b"-ERR this port takes TLS connections only\r\n"
    refused = {
        "the peer does not speak TLS here": None,
        "peer did not return a certificate": context(),
        "certificate is not accepted: .*(issuer|self-signed|signature)": context(
            certificates.stranger.issue_client("app", 10)
        ),
        "certificate has expired": context(certificates.expired("app")),
        # With it a session could be resumed without a certificate.
        "unsupported protocol": context(client, TLS_1_2),
    }
    for reason, tls in refused.items():
        pattern = f"client at {HOST}: connection refused: .*{reason}"
        logged = count_lines(node, pattern)
        expected = total(node, "rafter_client_tls_refused") + 3
        for _ in range(3):
            if tls is None:
                assert ping(node, None) == in_the_clear
            else:
                with pytest.raises(ssl.SSLError, match=r"ALERT"):
                    ping(node, tls)
        wait_for_total(node, "rafter_client_tls_refused", expected)
        # The first two kinds may have met the command line client before.
        assert count_lines(node, pattern) == max(logged, 1), node.log_tail()
    # A server that asks for no certificate takes older clients.
    assert ping(cluster[1], context(None, TLS_1_2)) == b"+PONG\r\n"


# ---- renewal ---------------------------------------------------------------------------------


def serial_number(certificates: Certificates, port: int) -> object:
    """Return the serial number of the certificate that a port shows to node 2."""
    context = certificates.context(certificates.files(2))
    plain = socket.create_connection((HOST, port), SECONDS)
    with context.wrap_socket(plain) as stream:
        return (stream.getpeercert() or {})["serialNumber"]


def test_renewed_certificates_count_for_new_connections_after_sighup(
    cluster: Cluster, certificates: Certificates
) -> None:
    node, process = cluster[1], cluster[1].process
    assert process is not None
    ports = [node.client_port + 1 + shard for shard in range(2)]
    ports += [node.peer_port + shard for shard in range(2)]

    def shown() -> set[object]:
        return {serial_number(certificates, port) for port in ports}

    (first,) = shown()
    opened = [connect(node, certificates, port=port) for port in ports[:2]]
    for number, client in enumerate(opened):
        client.set(f"renewed:{number}", "before")
    numbers = [client.client_id() for client in opened]
    certificates.issue_node(1)
    assert shown() == {first}
    process.send_signal(signal.SIGHUP)
    wait_for(lambda: first not in (now := shown()) and len(now) == 1, "all ports show the new one")
    (second,) = shown()
    # A file that cannot be used changes nothing, although the other one could be read.
    certificates.issue_node(1)
    certificates.files(1).key.chmod(0o644)
    process.send_signal(signal.SIGHUP)
    wait_for(lambda: count_lines(node, r"not reloaded.* \(mode 0644\)"), "it is refused")
    assert shown() == {second}
    for number, client in enumerate(opened):
        assert client.get(f"renewed:{number}") == b"before"
    assert [client.client_id() for client in opened] == numbers
    assert count_lines(node, "connection lost") == 0
    for client in opened:
        client.close()


def test_a_node_that_was_away_comes_back_and_gets_its_snapshots_over_tls(
    cluster: Cluster, certificates: Certificates
) -> None:
    """It dials the others anew, and they dial it: with what was renewed, too."""
    away, others = cluster[2], (cluster[1], cluster[3])
    away.kill()
    for node in others:
        node.wait_ready()
    goals = {node.node: total(node, "rafter_snapshots_taken") + 9 for node in others}
    with connect(cluster[1], certificates) as client:

        def are_logs_cut() -> bool:
            # With the second snapshot of each of the three groups, and they come evenly.
            for number in range(100):
                client.set(f"snapshot:{number}", "x" * 4000)
            return all(total(node, "rafter_snapshots_taken") >= goals[node.node] for node in others)

        wait_for(are_logs_cut, "the logs are cut")
    away.start()
    away.wait_ready()
    wait_for(lambda: total(away, "rafter_snapshots_installed") >= 1, "a snapshot is there")
    with connect(away, certificates) as client:
        assert client.get("snapshot:99") == b"x" * 4000
    # While it was away it was not to be reached, which has nothing to do with TLS.
    assert count_lines(others[1], "cannot connect: .*(certificate|TLS)") == 0
