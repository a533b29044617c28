from collections.abc import Iterator

import pytest

from rafter_kv.front_end import ClientLimits
from tests.kv.fake_front_end import FakeFrontEnd, FakeServer, serving
from tests.kv.raw_client import RawClient, request


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with serving(FakeFrontEnd(limits=ClientLimits(value_bytes_max=1234567))) as running:
        yield running


@pytest.fixture
def client(server: FakeServer) -> Iterator[RawClient]:
    with RawClient(server.port) as connected:
        yield connected


def sections(reply: bytes) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    _, _, text = reply.partition(b"\r\n")
    for line in text.decode().split("\r\n"):
        if line.startswith("# "):
            fields = found.setdefault(line[2:], {})
        elif line:
            name, _, value = line.partition(":")
            fields[name] = value
    return found


def test_info_has_the_fields_that_clients_and_exporters_read(
    server: FakeServer, client: RawClient
) -> None:
    found = sections(client.command(b"INFO"))
    flat = {name: value for fields in found.values() for name, value in fields.items()}
    assert flat["redis_version"] == "7.2.4"
    assert flat["tcp_port"] == str(server.port)
    assert flat["connected_clients"] == "1"
    assert int(flat["total_commands_processed"]) == 1
    wanted = {"arch_bits", "cluster_enabled", "redis_mode", "loading", "role", "db0", "maxmemory"}
    wanted |= {"connected_slaves", "blocked_clients", "used_memory", "total_connections_received"}
    assert wanted | {"process_id", "uptime_in_seconds"} <= flat.keys()
    assert found["Raft"] == {"raft_groups": "4"}


def test_info_takes_several_sections_in_any_case(client: RawClient) -> None:
    assert list(sections(client.command(b"INFO", b"RAFT", b"server"))) == ["Server", "Raft"]
    assert sections(client.command(b"INFO", b"all")).keys() == (
        sections(client.command(b"INFO", b"everything")).keys()
    )
    assert client.command(b"INFO", b"nosuch") == b"$0\r\n\r\n"


def test_info_is_text_for_people_in_version_3(client: RawClient) -> None:
    client.command(b"HELLO", b"3")
    assert client.command(b"INFO", b"cluster") == (
        b"=34\r\ntxt:# Cluster\r\ncluster_enabled:1\r\n\r\n"
    )


def test_config_get_shows_limits_and_what_the_front_end_adds(
    server: FakeServer, client: RawClient
) -> None:
    assert client.command(b"CONFIG", b"GET", b"rafter-VALUE*", b"port", b"port") == (
        b"*4\r\n$4\r\nport\r\n$%d\r\n%d\r\n" % (len(str(server.port)), server.port)
        + b"$22\r\nrafter-value-bytes-max\r\n$7\r\n1234567\r\n"
    )


def test_config_set_and_rewrite_are_refused_with_the_reason(client: RawClient) -> None:
    assert client.command(b"CONFIG", b"SET", b"maxmemory", b"1") == (
        b"-ERR CONFIG SET failed (possibly related to argument 'maxmemory') - "
        b"settings are changed in the configuration file of rafterd\r\n"
    )
    assert client.command(b"CONFIG", b"REWRITE").startswith(b"-ERR ")


def test_debug_is_refused(client: RawClient) -> None:
    assert client.command(b"DEBUG", b"SLEEP", b"1") == b"-ERR DEBUG command not allowed.\r\n"


def test_time_is_seconds_and_microseconds(client: RawClient) -> None:
    lines = client.command(b"TIME").split(b"\r\n")
    assert lines[0] == b"*2"
    assert int(lines[2]) > 1_700_000_000
    assert 0 <= int(lines[4]) < 1_000_000


def test_replace_asks_for_a_node_and_answers_when_that_is_decided(client: RawClient) -> None:
    client.send(request(b"RAFTER.REPLACE", b"2") + request(b"PING"))
    assert client.reply() == b"+OK\r\n"
    assert client.reply() == b"+PONG\r\n"
    assert client.command(b"rafter.replace", b"9").startswith(b"-ERR node 9 is not in")


@pytest.mark.parametrize("number", [b"", b"x", b"-1", b"1.5", b"123456", b"\xb2"])
def test_what_is_no_id_of_a_node_is_not_asked_about(client: RawClient, number: bytes) -> None:
    reply = client.command(b"RAFTER.REPLACE", number)
    assert reply == b"-ERR the id of a node is a number from 1 to 65535\r\n"
