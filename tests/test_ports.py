import socket
import subprocess
import sys

import pytest

from tests.ports import COUNT, HOST, PortRange, free_ports


def test_a_port_comes_up_again_only_after_all_others() -> None:
    base = free_ports(5)
    ports = PortRange(base, 5)
    assert [ports.next(2), ports.next(2), ports.next(2), ports.next(1)] == [
        base, base + 2, base, base + 2
    ]  # fmt: skip


def test_a_port_on_which_somebody_listens_is_passed_over() -> None:
    base = free_ports(4)
    with socket.create_server((HOST, base + 1)):
        ports = PortRange(base, 4)
        assert ports.next(2) == base + 2
        with pytest.raises(AssertionError, match="no 3 ports"):
            ports.next(3)


def test_two_processes_are_given_ports_of_different_ranges() -> None:
    program = "from tests.ports import free_ports; print(free_ports())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert int(done.stdout) // COUNT != free_ports() // COUNT
