import socket
from collections.abc import Iterator

import pytest

from tests.daemon.control_ends import Ends


@pytest.fixture
def ends() -> Iterator[Ends]:
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    one.setblocking(False)
    other.setblocking(False)
    yield one, other
    one.close()
    other.close()
