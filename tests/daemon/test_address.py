import pytest

from rafterd.address import Address, parse_address, parse_member


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("127.0.0.1:7379", "127.0.0.1", 7379),
        ("[::1]:1", "::1", 1),
        ("[::]:65535", "::", 65535),
        ("node-1.example.org:80", "node-1.example.org", 80),
        ("localhost:9", "localhost", 9),
    ],
)
def test_an_address_survives_parsing_and_printing(text: str, host: str, port: int) -> None:
    assert parse_address(text) == Address(host, port)
    assert str(parse_address(text)) == text


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("127.0.0.1", "port is missing"),
        ("", "port is missing"),
        (":7379", "host is missing"),
        ("127.0.0.1:", "is not a port"),
        ("127.0.0.1:0", "is not a port"),
        ("127.0.0.1:65536", "is not a port"),
        ("127.0.0.1:+1", "is not a port"),
        ("127.0.0.1:७", "is not a port"),
        ("::1:7379", "brackets"),
        ("[::1:7379", "brackets"),
        ("[127.0.0.1]:7379", "not an IPv6 address"),
        ("127.0.0.256:1", "neither"),
        ("127.1:1", "neither"),
        ("a b:1", "neither"),
        ("-x:1", "neither"),
        ("http://x:1", "brackets"),
    ],
)
def test_a_bad_address_says_what_is_wrong(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        parse_address(text)


def test_a_member_is_an_id_and_an_address() -> None:
    assert parse_member("3@127.0.0.1:17579") == (3, Address("127.0.0.1", 17579))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("127.0.0.1:1", "node id is missing"),
        ("x@127.0.0.1:1", "not a node id"),
        ("0@127.0.0.1:1", "not a node id"),
        ("65536@127.0.0.1:1", "not a node id"),
        ("1@127.0.0.1", "port is missing"),
    ],
)
def test_a_bad_member_says_what_is_wrong(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        parse_member(text)


@pytest.mark.parametrize(
    ("host", "is_loopback", "is_wildcard", "is_foreign"),
    [
        ("127.0.0.1", True, False, False),
        ("127.9.9.9", True, False, False),
        ("::1", True, False, False),
        ("localhost", True, False, False),
        ("0.0.0.0", False, True, True),
        ("::", False, True, True),
        ("10.0.0.1", False, False, True),
        ("db1", False, False, False),
    ],
)
def test_kinds_of_hosts(host: str, is_loopback: bool, is_wildcard: bool, is_foreign: bool) -> None:
    address = Address(host, 1)
    assert address.is_loopback == is_loopback
    assert address.is_wildcard == is_wildcard
    assert address.is_foreign == is_foreign


@pytest.mark.parametrize(
    ("one", "other", "may_share"),
    [
        ("127.0.0.1", "127.0.0.1", True),
        ("127.0.0.1", "127.0.0.2", False),
        ("0.0.0.0", "127.0.0.2", True),
        ("127.0.0.1", "::1", False),
        ("localhost", "127.0.0.1", True),
    ],
)
def test_interfaces_that_may_compete_for_a_port(one: str, other: str, may_share: bool) -> None:
    assert Address(one, 1).may_share_interface(Address(other, 1)) == may_share
    assert Address(other, 1).may_share_interface(Address(one, 1)) == may_share
