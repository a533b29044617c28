import socket

import pytest

from rafterd.address import Address
from rafterd.config_check import Port
from rafterd.ports import PortError, listen, probe
from tests.ports import free_ports


def port(number: int, host: str = "127.0.0.1") -> Port:
    return Port("client.listen", Address(host, number), "clients of shard 0")


def test_a_probe_leaves_nothing_behind() -> None:
    base = free_ports(3)
    ports = [port(base + step) for step in range(3)]
    probe(ports)
    probe(ports)
    listen(ports[0]).close()


def test_every_port_in_use_is_named_at_once() -> None:
    base = free_ports(2)
    with (
        socket.create_server(("127.0.0.1", base), reuse_port=True),
        socket.create_server(("127.0.0.1", base + 1)),
        pytest.raises(PortError) as caught,
    ):
        probe([port(base), port(base + 1)])
    assert str(caught.value).splitlines() == [
        f"client.listen: cannot listen on 127.0.0.1:{number} (clients of shard 0): "
        "the port is in use by another process"
        for number in (base, base + 1)
    ]


def test_connections_that_linger_do_not_refuse_the_next_start() -> None:
    base = free_ports()
    with socket.create_server(("127.0.0.1", base)) as server:
        client = socket.create_connection(("127.0.0.1", base))
        accepted, _address = server.accept()
        accepted.close()  # this side closes first and keeps TIME_WAIT
        assert client.recv(1) == b""
        client.close()
    probe([port(base)])


def test_an_address_of_another_machine_is_named() -> None:
    with pytest.raises(PortError, match="not one of this machine"):
        listen(port(7379, "192.0.2.1"))


def test_a_name_that_does_not_resolve_is_named() -> None:
    with pytest.raises(PortError, match="cannot be resolved"):
        probe([port(7379, "no-such-host.invalid")])
