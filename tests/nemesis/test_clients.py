"""Clients against a server that answers, refuses, falls silent and hangs up as it is told."""

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable
from typing import Any

import hiredis
import pytest

from tests.linear.history import Outcome
from tests.nemesis.clients import (
    PIPELINE_MAX,
    TURNS_OF_CONNECTION,
    Address,
    Ballast,
    Client,
    Connection,
    LostError,
    Recorder,
    encode,
)
from tests.nemesis.workload import Object, Team, reading

Answer = Callable[[list[bytes]], bytes | None]
"""What to send for a command; None: hang up."""


def store() -> Answer:
    """A server with one dict."""
    values: dict[bytes, bytes] = {}

    def answer(words: list[bytes]) -> bytes:
        name, key, *rest = words
        if name == b"GET":
            value = values.get(key)
            return b"$-1\r\n" if value is None else b"$%d\r\n%s\r\n" % (len(value), value)
        if name == b"SET":
            values[key] = rest[0]
            return b"+OK\r\n"
        return b":%d\r\n" % (values.pop(key, None) is not None)

    return answer


async def serving(answer: Answer, work: Callable[[Address], Awaitable[None]]) -> None:
    """Run some work against a server on loopback."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests = hiredis.Reader()
        with contextlib.closing(writer):
            while data := await reader.read(1 << 16):
                requests.feed(data)
                while (words := requests.gets()) is not False:
                    reply = answer(words)
                    if reply is None:
                        return
                    writer.write(reply)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        await work(server.sockets[0].getsockname()[:2])
    finally:
        server.close()
        await server.wait_closed()


def run_worker(
    answer: Answer, commands: int, worker: Callable[[Address], Callable[[asyncio.Event], Any]]
) -> None:
    """Let somebody work until the server has seen so many commands."""
    is_over = asyncio.Event()
    count = 0

    def counting(words: list[bytes]) -> bytes | None:
        nonlocal count
        count += 1
        if count >= commands:
            is_over.set()
        return answer(words)

    async def work(address: Address) -> None:
        async with asyncio.timeout(30):
            await worker(address)(is_over)

    asyncio.run(serving(counting, work))


def run_client(answer: Answer, commands: int) -> Recorder:
    """Let one client run about so many operations on registers."""
    recorder = Recorder()
    team = Team(0, random.Random(1), ["register"])
    run_worker(
        answer,
        commands,
        lambda address: Client(1, team, [address], recorder, random.Random(2), 0.0001).run,
    )
    return recorder


def test_a_command_is_encoded_as_an_array_of_bulk_strings() -> None:
    assert encode((b"GET", b"key")) == b"*2\r\n$3\r\nGET\r\n$3\r\nkey\r\n"


def test_operations_are_written_down_with_results_and_times() -> None:
    operations = run_client(store(), TURNS_OF_CONNECTION[0]).history.operations
    assert {operation.outcome for operation in operations} == {Outcome.OK}
    assert {operation.kind for operation in operations} >= {"read", "write"}
    for operation in operations:
        assert operation.completed is not None
        assert operation.completed >= operation.invoked
    assert {operation.connection for operation in operations} == {1}


def test_operations_of_one_connection_have_the_order_in_which_they_were_sent() -> None:
    recorder = run_client(store(), 200)
    invoked: dict[int, list[int]] = {}
    for operation in recorder.history.operations:
        invoked.setdefault(operation.connection, []).append(operation.invoked)
    assert sum(map(len, invoked.values())) >= 200
    assert all(times == sorted(set(times)) for times in invoked.values())


def test_a_client_goes_on_at_another_node_after_a_while() -> None:
    assert run_client(store(), 2 * PIPELINE_MAX * TURNS_OF_CONNECTION[1]).connections > 1


def test_a_lost_connection_leaves_what_was_under_way_unknown_and_is_replaced() -> None:
    count = 0
    answers = store()

    def answer(words: list[bytes]) -> bytes | None:
        nonlocal count
        count += 1
        return None if count % 10 == 0 else answers(words)

    recorder = run_client(answer, 100)
    unknown = [one for one in recorder.history.operations if one.outcome is Outcome.UNKNOWN]
    assert len(unknown) >= 9
    assert all(operation.completed is None for operation in unknown)
    assert recorder.connections > 9
    assert recorder.errors["closed by the server"] == len(unknown)


def test_refusals_are_failures_and_make_the_client_try_elsewhere() -> None:
    recorder = run_client(lambda _: b"-CLUSTERDOWN no leader; nothing was executed\r\n", 12)
    outcomes = {operation.outcome for operation in recorder.history.operations}
    assert outcomes == {Outcome.FAILED}
    assert recorder.connections >= 2


def test_a_strange_reply_is_kept_as_one() -> None:
    recorder = run_client(lambda _: b"+WHAT\r\n", 5)
    assert any("b'WHAT' is not OK" in text for text in recorder.strange)
    assert {operation.outcome for operation in recorder.history.operations} <= {
        Outcome.UNKNOWN,
        Outcome.OK,  # a read may well return WHAT
    }


def test_a_server_that_stays_silent_is_lost_after_a_while() -> None:
    async def work(address: Address) -> None:
        connection = await Connection.open(address)
        with contextlib.closing(connection):
            connection.send([(b"GET", b"k")])
            with pytest.raises(LostError, match="no answer in time"):
                await connection.receive(0.05)

    asyncio.run(serving(lambda _: b"", work))


def test_nobody_there_is_a_lost_connection() -> None:
    with pytest.raises(LostError):
        asyncio.run(Connection.open(("127.0.0.1", 1)))


def test_unknown_writes_are_counted_and_unknown_reads_are_not() -> None:
    recorder = Recorder()
    target = Object("register", "r")
    recorder.add(1, 1, target, reading("register", "r"), recorder.now(), LostError("lost"))
    assert target.unknown_writes == 0
    _, write = next(
        pair for pair in iter(Team(0, random.Random(1), ["register"]).next_step, None)
        if pair[1].is_write
    )  # fmt: skip
    recorder.add(1, 1, target, write, recorder.now(), LostError("lost"))
    assert target.unknown_writes == 1


def test_ballast_is_written_and_counted() -> None:
    sizes = []

    def answer(words: list[bytes]) -> bytes:
        sizes.append(len(words[2]))
        return b"+OK\r\n"

    made = []

    def worker(address: Address) -> Callable[[asyncio.Event], Any]:
        made.append(Ballast([address], 1000.0))
        return made[0].run

    run_worker(answer, 5, worker)
    assert made[0].acknowledged == len(sizes) == 5
    assert set(sizes) == {Ballast.VALUE_BYTES}
