"""What cannot be compared with an older redis-server: 7.2's additions and our own state."""

from collections.abc import Iterator

import pytest

from tests.kv.fake_front_end import serving
from tests.kv.raw_client import RawClient


@pytest.fixture
def client() -> Iterator[RawClient]:
    with serving() as server, RawClient(server.port) as connected:
        yield connected


def test_library_name_and_version_are_kept_and_shown(client: RawClient) -> None:
    assert client.command(b"CLIENT", b"SETINFO", b"LIB-NAME", b"lib") == b"+OK\r\n"
    assert client.command(b"CLIENT", b"setinfo", b"lib-ver", b"1.2") == b"+OK\r\n"
    assert client.command(b"CLIENT", b"INFO").endswith(b"lib-name=lib lib-ver=1.2\n\r\n")
    assert client.command(b"CLIENT", b"SETINFO", b"FOO", b"x") == (
        b"-ERR Unrecognized option 'FOO'\r\n"
    )
    assert client.command(b"CLIENT", b"SETINFO", b"LIB-NAME", b"a b") == (
        b"-ERR lib-name cannot contain spaces, newlines or special characters.\r\n"
    )
    assert client.command(b"CLIENT", b"SETINFO", b"LIB-VER", b"x" * 1025) == (
        b"-ERR lib-ver cannot be longer than 1024 bytes\r\n"
    )


def test_client_list_shows_the_connections_of_the_shard() -> None:
    with serving() as server, RawClient(server.port) as one, RawClient(server.port) as two:
        one.command(b"HELLO", b"3", b"SETNAME", b"first")
        two.command(b"READONLY")
        listing = two.command(b"CLIENT", b"LIST")
        assert listing.count(b"id=") == 2
        assert b" name=first " in listing
        assert b" cmd=hello " in listing
        assert b" resp=3 " in listing
        assert b" flags=r " in listing
        assert two.command(b"CLIENT", b"LIST", b"ID", b"1", b"99").count(b"id=") == 1
        assert two.command(b"CLIENT", b"LIST", b"TYPE", b"normal").count(b" addr=") == 2
        ids = [client.command(b"CLIENT", b"ID") for client in (one, two)]
        assert ids == [b":1\r\n", b":2\r\n"]


def test_a_hello_that_fails_changes_nothing(client: RawClient) -> None:
    assert client.command(b"HELLO", b"3", b"SETNAME", b"a b").startswith(b"-ERR Client names")
    assert client.command(b"HELLO", b"3", b"AUTH", b"nobody", b"x").startswith(b"-WRONGPASS")
    assert client.command(b"GET", b"absent") == b"$-1\r\n"
    assert client.command(b"CLIENT", b"GETNAME") == b"$-1\r\n"


def test_reset_returns_to_the_state_of_a_new_connection(client: RawClient) -> None:
    client.command(b"HELLO", b"3", b"SETNAME", b"name")
    client.command(b"READONLY")
    assert client.command(b"RESET") == b"+RESET\r\n"
    assert client.command(b"CLIENT", b"GETNAME") == b"$-1\r\n"
    assert b" flags=N " in client.command(b"CLIENT", b"INFO")


def test_readonly_and_readwrite_mark_the_connection(client: RawClient) -> None:
    client.command(b"READONLY")
    assert b" flags=r " in client.command(b"CLIENT", b"INFO")
    client.command(b"READWRITE")
    assert b" flags=N " in client.command(b"CLIENT", b"INFO")


def test_a_client_name_has_a_limit(client: RawClient) -> None:
    assert client.command(b"CLIENT", b"SETNAME", b"n" * 1025) == (
        b"-ERR Client names cannot be longer than 1024 bytes\r\n"
    )
