"""Addresses as operators write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rafter_transport import AddressError, format_address, parse_address


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:7379", ("127.0.0.1", 7379)),
        ("db-1.example.org:0", ("db-1.example.org", 0)),
        ("[::1]:65535", ("::1", 65535)),
        ("[fe80::1%eth0]:1", ("fe80::1%eth0", 1)),
    ],
)
def test_host_and_port_are_split_and_written_back(text: str, expected: tuple[str, int]) -> None:
    assert parse_address(text, "peer.listen") == expected
    assert format_address(*expected) == text


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "expected host:port"),
        ("7379", "expected host:port"),
        (":7379", "expected host:port"),
        ("host:", "the port must be a number"),
        ("host:65536", "the port must be a number"),
        ("host:-1", "the port must be a number"),
        ("host:+1", "the port must be a number"),
        ("host:1_0", "the port must be a number"),
        ("host:\u0663", "the port must be a number"),
        ("host:99999999999999999999", "the port must be a number"),
        ("::1:7379", r"write an IPv6 address as \[address\]:port"),
        ("[::1:7379", r"write an IPv6 address as \[address\]:port"),
        ("[host]:1", "brackets are for IPv6"),
        ("a b:1", "characters that no host name has"),
        ("a\nb:1", "characters that no host name has"),
    ],
)
def test_the_error_names_the_setting_the_value_and_what_is_allowed(
    text: str, complaint: str
) -> None:
    with pytest.raises(AddressError, match=complaint) as caught:
        parse_address(text, "peer.listen")
    assert str(caught.value).startswith(f"peer.listen = {text!r}: ")


@given(st.text(max_size=40))
def test_any_text_gives_an_address_or_an_address_error(text: str) -> None:
    try:
        host, port = parse_address(text, "x")
    except AddressError:
        return
    assert host
    assert 0 <= port <= 65535
