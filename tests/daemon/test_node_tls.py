"""TLS as the configuration of a node says: what is read, when it counts, and for whom."""

from __future__ import annotations

import os
import ssl
from pathlib import Path

import pytest

from rafter_transport.tls_session import TlsSession
from rafterd.config import Config, load_config
from rafterd.node_tls import NodeTls, TlsError
from tests.kv.tls_kit import client_tls
from tests.transport.tls_support import Authority


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def config_with(**keys: object) -> Config:
    overrides = {key.replace("__", "."): str(value) for key, value in keys.items()}
    return load_config(overrides={"node.shards": "1"} | overrides).config


def client_keys(authority: Authority, *, ca: Path | None = None) -> dict[str, object]:
    certificate, key = authority.issue("127.0.0.1")
    keys: dict[str, object] = {"client__tls_certificate": certificate, "client__tls_key": key}
    return keys if ca is None else {**keys, "client__tls_ca": ca}


def peer_keys(authority: Authority) -> dict[str, object]:
    certificate, key = authority.issue("node-1")
    return {
        "peer__tls_certificate": certificate,
        "peer__tls_key": key,
        "peer__tls_ca": authority.ca,
    }


class Meeting:
    """A client of a node in memory: both sessions, and what they have to say."""

    def __init__(self, tls: NodeTls, context: ssl.SSLContext) -> None:
        server = tls.client_session()
        assert server is not None
        self.server = server
        self.client = TlsSession(context, is_server=False)
        self.client.begin()
        self.server.receive(self.client.outgoing())
        self.client.receive(self.server.outgoing())
        self.server.receive(self.client.outgoing())
        self.client.receive(self.server.outgoing())  # the last message of TLS 1.2

    def say(self, data: bytes) -> bytes:
        """Return what the server hears of what the client says."""
        self.client.seal(data)
        return self.server.receive(self.client.outgoing())

    def serial_number(self) -> object:
        certificate = self.client.peer_certificate()
        assert certificate is not None
        return certificate["serialNumber"]


def test_without_files_nothing_is_secured_and_nothing_is_read_again() -> None:
    tls = NodeTls(config_with())
    assert (tls.peer, tls.client_session(), tls.is_used) == (None, None, False)
    tls.use(tls.read())
    assert (tls.peer, tls.client_session()) == (None, None)


def test_peers_and_clients_are_secured_each_on_its_own(authority: Authority) -> None:
    for_peers = NodeTls(config_with(**peer_keys(authority)))
    for_clients = NodeTls(config_with(**client_keys(authority)))
    assert for_peers.is_used
    assert for_clients.is_used
    assert for_peers.peer is not None
    assert for_peers.client_session() is None
    assert for_clients.peer is None
    assert Meeting(for_clients, client_tls(authority)).say(b"PING") == b"PING"


@pytest.mark.parametrize("section", ["peer", "client"])
def test_a_file_that_cannot_be_used_is_named_by_its_section_at_the_start_and_later(
    authority: Authority, section: str
) -> None:
    keys = peer_keys(authority) if section == "peer" else client_keys(authority)
    config = config_with(**keys)
    tls = NodeTls(config)
    key = Path(str(keys[f"{section}__tls_key"]))
    key.chmod(0o644)
    for fail in (tls.read, lambda: NodeTls(config)):
        with pytest.raises(TlsError, match=rf"^{section}\.tls_key = .* \(mode 0644\)"):
            fail()


def test_the_names_of_nodes_follow_the_configured_pattern(authority: Authority) -> None:
    keys = peer_keys(authority)
    with pytest.raises(TlsError, match=r"must name 'db-1\.example\.org'"):
        NodeTls(config_with(**keys, peer__tls_name="db-{id}.example.org"))
    authority.issue("db-1.example.org", file="node-1")
    tls = NodeTls(config_with(**keys, peer__tls_name="db-{id}.example.org"))
    assert tls.peer is not None
    assert tls.peer.name_of(7) == "db-7.example.org"


def test_clients_may_be_older_than_nodes(authority: Authority) -> None:
    tls = NodeTls(config_with(**client_keys(authority)))
    context = client_tls(authority)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    meeting = Meeting(tls, context)
    assert meeting.server.version() == "TLSv1.2"
    assert meeting.say(b"PING") == b"PING"


def test_with_an_authority_a_client_has_to_show_a_certificate_of_it(
    authority: Authority, tmp_path: Path
) -> None:
    clients = Authority(tmp_path, "clients")
    tls = NodeTls(config_with(**client_keys(authority, ca=clients.ca)))
    context = client_tls(authority)
    with pytest.raises(ssl.SSLError, match="PEER_DID_NOT_RETURN_A_CERTIFICATE"):
        Meeting(tls, context)
    context.load_cert_chain(*authority.issue("app"))
    with pytest.raises(ssl.SSLCertVerificationError):
        Meeting(tls, context)
    context.load_cert_chain(*clients.issue("app"))
    assert Meeting(tls, context).say(b"PING") == b"PING"


def test_a_client_that_needs_a_certificate_needs_tls_1_3_as_well(authority: Authority) -> None:
    """With TLS 1.2 it came back later without showing any: its session was resumed.

    The server's cache of sessions is on by default, and what had been tried was always new.
    """
    tls = NodeTls(config_with(**client_keys(authority, ca=authority.ca)))
    context = client_tls(authority)
    context.load_cert_chain(*authority.issue("app"))
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError, match="UNSUPPORTED_PROTOCOL"):
        Meeting(tls, context)


def test_what_is_read_counts_for_new_connections_once_it_is_used(authority: Authority) -> None:
    tls = NodeTls(config_with(**client_keys(authority)))
    context = client_tls(authority)
    old = Meeting(tls, context)
    authority.issue("127.0.0.1")
    update = tls.read()
    assert Meeting(tls, context).serial_number() == old.serial_number()
    tls.use(update)
    assert Meeting(tls, context).serial_number() != old.serial_number()
    assert old.say(b"still here") == b"still here"


def test_the_authority_of_clients_is_renewed_with_the_rest(
    authority: Authority, tmp_path: Path
) -> None:
    clients = Authority(tmp_path, "clients")
    tls = NodeTls(config_with(**client_keys(authority, ca=clients.ca)))
    context = client_tls(authority)
    context.load_cert_chain(*clients.issue("app"))
    assert Meeting(tls, context).say(b"PING") == b"PING"
    renewed = Authority(tmp_path, "clients")
    tls.use(tls.read())
    with pytest.raises(ssl.SSLCertVerificationError):
        Meeting(tls, context)
    context.load_cert_chain(*renewed.issue("app"))
    assert Meeting(tls, context).say(b"PING") == b"PING"


def test_a_ca_file_may_hold_two_authorities_while_one_takes_the_place_of_the_other(
    authority: Authority, tmp_path: Path
) -> None:
    new = Authority(tmp_path, "new")
    both = tmp_path / "both.pem"
    both.write_bytes(authority.ca.read_bytes() + new.ca.read_bytes())
    tls = NodeTls(config_with(**client_keys(authority, ca=both)))
    context = client_tls(authority)
    for issuer in (authority, new):
        context.load_cert_chain(*issuer.issue("app"))
        assert Meeting(tls, context).say(b"PING") == b"PING"


def test_files_that_cannot_be_read_again_leave_everything_as_it_was(authority: Authority) -> None:
    keys = client_keys(authority) | peer_keys(authority)
    tls = NodeTls(config_with(**keys))
    context = client_tls(authority)
    before = Meeting(tls, context).serial_number()
    # Those of peers are in order, and yet nothing of either is taken.
    authority.issue("node-1")
    certificate, _ = authority.issue("other")
    os.replace(certificate, str(keys["client__tls_certificate"]))
    with pytest.raises(TlsError, match=r"^client\.tls_key = .*: it is not the key of"):
        tls.use(tls.read())
    assert Meeting(tls, context).serial_number() == before
