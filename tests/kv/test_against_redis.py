"""Replies compared byte for byte with a real redis-server, in both protocol versions.

One group, so that commands of several keys need no hash tags; Redis has cluster mode on and owns
all slots, so several keys must share a tag there.
"""

from collections.abc import Iterator

import pytest

from tests.kv.fake_front_end import FakeFrontEnd, serving
from tests.kv.raw_client import RawClient, request
from tests.kv.redis_oracle import redis_server

Clients = tuple[RawClient, RawClient]


@pytest.fixture(scope="module")
def ports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, int]]:
    with (
        redis_server(tmp_path_factory.mktemp("redis")) as redis_port,
        serving(FakeFrontEnd(1)) as server,
    ):
        yield server.port, redis_port


@pytest.fixture(params=[2, 3])
def clients(ports: tuple[int, int], request: pytest.FixtureRequest) -> Iterator[Clients]:
    with RawClient(ports[0]) as ours, RawClient(ports[1]) as theirs:
        for client in (ours, theirs):
            client.command(b"FLUSHALL")
            client.command(b"HELLO", b"%d" % request.param)
        yield ours, theirs


DATA = """
SET a 1
GET a
GET absent
SET a 2 NX
SET a 3 XX GET
SET a 3 XX NX
SET a 3 EX
SET a 3 EX 0
SET a 3 EX x
SET a 3 EX 10 PX 10
SET a 3 EX 100 KEEPTTL
SET a 3 FOO
INCR a
INCRBY a 10
INCRBY a x
DECR a
DECRBY a 3
INCR {a}b
INCRBYFLOAT {a}f 1.5
INCRBYFLOAT {a}f x
APPEND a xyz
STRLEN a
STRLEN absent
INCR a
MSET {m}1 a {m}2 b
MSET {m}1 a {m}2
MSET
MSETNX {m}2 a {m}3 b
MGET {m}1 {m}2 {m}3
MGET
EXISTS {m}1 {m}2 {m}9 {m}1
TOUCH {m}1 {m}9
DEL {m}1 {m}9
UNLINK {m}2
EXPIRE a 100
EXPIRE a 100 NX
EXPIRE a 100 GT LT
EXPIRE a x
EXPIRE absent 10
TTL a
TTL {m}9
PTTL absent
PERSIST a
PERSIST a
TTL a
TYPE a
TYPE absent
DBSIZE
SCAN x
SCAN 0 COUNT 0
SCAN 0 FOO
FLUSHALL FOO
FLUSHALL
KEYS *
DBSIZE
SCAN 0
"""

LOCAL = """
PING
PING hello
PING a b
ECHO hello
ECHO
QUITE now
FOO
FOO a b
FOO 'a b' "c\\r\\nd" ""
"x\\r\\ny" 1
GET
get a b
SET a
SELECT 0
SELECT 1
SELECT x
SELECT 99999999999
AUTH x
AUTH default x
AUTH nobody x
AUTH a b c
AUTH
HELLO 1
HELLO 4
HELLO x
HELLO 3 FOO
HELLO 3 AUTH
HELLO 3 AUTH nobody x
HELLO 3 SETNAME
HELLO 3 SETNAME "a b"
HELLO 3 AUTH default x SETNAME "a b"
CLIENT
CLIENT FOO
CLIENT FOO bar
CLIENT ID x
CLIENT GETNAME
CLIENT SETNAME name
CLIENT GETNAME
CLIENT SETNAME "a b"
CLIENT SETNAME ""
CLIENT GETNAME
CLIENT NO-EVICT on
CLIENT NO-EVICT maybe
CLIENT LIST FOO
CLIENT LIST TYPE foo
CLIENT LIST TYPE master
CLIENT LIST ID
CLIENT LIST ID x
CLIENT MAINT_NOTIFICATIONS ON
CONFIG
CONFIG FOO
CONFIG GET
CONFIG GET save
CONFIG GET appendonly
CONFIG GET maxmemory
CONFIG GET no-such-thing
CONFIG SET
CONFIG SET a
CONFIG RESETSTAT
CONFIG RESETSTAT x
CLUSTER
CLUSTER FOO
CLUSTER KEYSLOT
CLUSTER KEYSLOT foo
CLUSTER KEYSLOT {user1000}.following
CLUSTER KEYSLOT foo{}{bar}
COMMAND FOO
COMMAND COUNT x
COMMAND GETKEYS
COMMAND GETKEYS GET a
COMMAND GETKEYS MSET a 1 b 2
COMMAND GETKEYS MGET a b c
COMMAND GETKEYS PING x
COMMAND GETKEYS NOSUCH x
COMMAND GETKEYS GET a b
COMMAND INFO nosuch
COMMAND DOCS nosuch
COMMAND LIST FILTERBY
COMMAND LIST FILTERBY FOO x
COMMAND LIST FILTERBY MODULE none
READONLY
READWRITE
ASKING
READONLY x
TIME x
DEBUG
FUNCTION FLUSH
FUNCTION FLUSH SYNC
FUNCTION FLUSH FOO
FUNCTION FOO
FUNCTION
INFO nosuch
INFO cluster
RESET x
"""


def commands(text: str) -> list[str]:
    return [line for line in text.splitlines() if line]


@pytest.mark.parametrize("text", [DATA, LOCAL], ids=["data", "local"])
def test_replies_are_those_of_redis(clients: Clients, text: str) -> None:
    ours, theirs = clients
    differences = []
    for line in commands(text):
        for client in clients:
            client.send(line.encode() + b"\r\n")
        replies = ours.reply(), theirs.reply()
        if replies[0] != replies[1]:
            differences.append((line, *replies))
    assert differences == []


@pytest.mark.parametrize(
    "data",
    [
        b"*x\r\n",
        b"*3000000000\r\n",
        b"*1\r\n$9999999999\r\n",
        b"*1\r\n$-1\r\n",
        b"*1\r\n:5\r\n",
        b"*1\r\n*1\r\n$4\r\nPING\r\n",
        b"*1\r\n+PING\r\n",
        b"*1\r\n\r\n$4\r\nPING\r\n",
        b"*2\r\n$4\r\nECHO\r\n$x\r\n",
        b"get 'abc\r\n",
        b'get "abc"def\r\n',
        b"*01\r\n$4\r\nPING\r\n",
        b"*1\r\n$4\r\nPINGXX*x\r\n",
        b"\r\n\n*0\r\n*-1\r\n*-7\r\nPING\r\n*x\r\n",
    ],
)
@pytest.mark.parametrize("lead", [b"", request(b"PING")])
def test_malformed_requests_get_the_replies_of_redis_and_the_end(
    ports: tuple[int, int], lead: bytes, data: bytes
) -> None:
    replies = []
    for port in ports:
        with RawClient(port) as client:
            client.send(lead + data)
            replies.append(client.rest())
    assert replies[0] == replies[1]
    assert b"-ERR Protocol error: " in replies[0]


def test_command_info_has_the_form_and_positions_of_redis(clients: Clients) -> None:
    for name in (
        b"get",
        b"del",
        b"mget",
        b"mset",
        b"set",
        b"incr",
        b"exists",
        b"append",
        b"expire",
    ):
        ours, theirs = (client.command(b"COMMAND", b"INFO", name) for client in clients)
        # Name, arity, and the numbers of the keys; flags come in no fixed order.
        head = b"\r\n".join(ours.split(b"\r\n")[:5])
        assert theirs.startswith(head)
        numbers = [
            [line for line in reply.split(b"\r\n") if line.startswith(b":")][:4]
            for reply in (ours, theirs)
        ]
        assert numbers[0] == numbers[1], name


def test_hello_has_the_fields_of_redis(clients: Clients) -> None:
    ours, theirs = (client.command(b"HELLO").split(b"\r\n") for client in clients)
    different = [a for a, b in zip(ours, theirs, strict=True) if a != b]
    assert len(different) <= 3, "only the version with its length and the client id may differ"
