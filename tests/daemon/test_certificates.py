"""Certificates that are made here: what is in them, and that TLS takes them."""

import ssl
import stat
from pathlib import Path

import pytest
from cryptography import x509

from rafter_transport.tls import PeerTls, TlsError, TlsFiles
from rafter_transport.tls_session import TlsSession
from rafterd.certificates import CertificateError, Issued, make_authority, open_authority


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    make_authority(tmp_path / "tls", "test", 10)
    return tmp_path / "tls"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def tls_of(directory: Path, node: int, issued: Issued) -> PeerTls:
    return PeerTls(node, TlsFiles("peer", *issued, directory / "ca.crt"))


def test_an_authority_and_its_nodes_are_all_that_peers_need(directory: Path) -> None:
    authority = open_authority(directory)
    client, server = (
        tls_of(directory, node, authority.issue_node(f"node-{node}", [], 10)).session(
            is_server=node == 2
        )
        for node in (1, 2)
    )
    client.begin()
    server.receive(client.outgoing())
    client.receive(server.outgoing())
    server.receive(client.outgoing())
    assert client.is_secure
    assert server.is_secure


def test_keys_are_for_their_owner_alone_whatever_the_umask(directory: Path) -> None:
    issued = open_authority(directory).issue_node("node-1", [], 10)
    assert mode(directory) == 0o700
    assert mode(directory / "ca.key") == mode(issued.key) == 0o600
    assert mode(issued.certificate) & 0o022 == 0


def test_nothing_is_ever_overwritten(directory: Path) -> None:
    authority = open_authority(directory)
    authority.issue_node("node-1", [], 10)
    before = {path.name: path.read_bytes() for path in directory.iterdir()}
    with pytest.raises(CertificateError, match=r"node-1\.key: is there already"):
        authority.issue_node("node-1", [], 10)
    with pytest.raises(CertificateError, match=r"ca\.key: is there already"):
        make_authority(directory, "test", 10)
    # And a key that was written before the certificate could not be is gone again.
    (directory / "node-2.crt").touch()
    before["node-2.crt"] = b""
    with pytest.raises(CertificateError, match=r"node-2\.crt: is there already"):
        authority.issue_node("node-2", [], 10)
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == before


def test_a_node_is_named_with_the_hosts_that_clients_use(directory: Path) -> None:
    issued = open_authority(directory).issue_node(
        "node-1", ["db1.example.org", "127.0.0.1", "::1", "node-1"], 10
    )
    certificate = x509.load_pem_x509_certificate(issued.certificate.read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["node-1", "db1.example.org"]
    assert list(map(str, names.get_values_for_type(x509.IPAddress))) == ["127.0.0.1", "::1"]
    span = certificate.not_valid_after_utc - certificate.not_valid_before_utc
    assert span.days == 10


def test_the_certificate_of_a_client_does_not_do_for_a_node(directory: Path) -> None:
    authority = open_authority(directory)
    with pytest.raises(TlsError, match=r"unsuitable certificate purpose|unsupported"):
        tls_of(directory, 7, authority.issue_client("node-7", 10))


def test_a_strict_verifier_takes_what_is_made(directory: Path) -> None:
    authority = open_authority(directory)
    node = authority.issue_node("node-1", ["127.0.0.1"], 10)
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_context.load_cert_chain(*node)
    context = ssl.create_default_context(cafile=directory / "ca.crt")
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    context.check_hostname = False
    client = TlsSession(context, is_server=False)
    server = TlsSession(server_context, is_server=True)
    client.begin()
    server.receive(client.outgoing())
    client.receive(server.outgoing())
    assert client.is_secure


@pytest.mark.parametrize("name", ["", "../node", ".hidden", "x" * 65, "nöde"])
def test_a_name_that_cannot_be_is_refused(directory: Path, name: str) -> None:
    before = sorted(directory.iterdir())
    with pytest.raises(CertificateError):
        open_authority(directory).issue_client(name, 10)
    assert sorted(directory.iterdir()) == before


def test_an_authority_that_is_not_there_or_not_whole_is_named(
    directory: Path, tmp_path: Path
) -> None:
    with pytest.raises(CertificateError, match="rafterd cert authority"):
        open_authority(tmp_path / "nowhere")
    make_authority(tmp_path / "other", "other", 10)
    (directory / "ca.key").write_bytes((tmp_path / "other" / "ca.key").read_bytes())
    with pytest.raises(CertificateError, match="is not the key of"):
        open_authority(directory)
    (directory / "ca.key").write_bytes(b"nonsense")
    with pytest.raises(CertificateError, match="cannot be read"):
        open_authority(directory)


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CertificateError, match="cannot be made"):
        make_authority(tmp_path / "file" / "tls", "x", 1)
