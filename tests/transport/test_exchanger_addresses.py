"""The exchanger and nodes that move: their addresses, and what the map says of them."""

import asyncio
from typing import Any

from rafter_transport import (
    Channel,
    NodeInfo,
)
from rafter_transport.handshake import (
    Hello,
    encode_accepted,
)
from tests.ports import free_ports
from tests.transport.support import (
    HOST,
    LogRecorder,
    Peer,
    RawServer,
    addresses,
    every_loop,
    make_hello,
    run,
)


def announcing(node: int, port: int, **changes: Any) -> Hello:
    """Return a hello that says where its node is dialled."""
    return make_hello(node, version_max=3, peer_host=HOST, peer_port=port, **changes)


@every_loop
def test_a_node_that_comes_back_on_another_address_is_found_again(loop_kind: str) -> None:
    async def main() -> None:
        nodes = addresses(1, 2)
        (_, port), new_port = nodes[2], free_ports()
        async with Peer(announcing(1, nodes[1][1]), nodes) as first:
            async with Peer(announcing(2, port), nodes):
                await first.until_up(2)
            await first.until_down(2)
            # Only this node has been told that it moved.
            moved = nodes | {2: (HOST, new_port)}
            async with Peer(announcing(2, new_port), moved) as second:
                await first.until_up(2)
                first.send(2, 0, Channel.RAFT, b"x")
                await second.recorder.until(lambda: second.recorder.of(Channel.RAFT) == [b"x"])
                assert first.registry.peer_address(2, 0) == (HOST, new_port)

    run(loop_kind, main())


@every_loop
def test_the_link_to_where_a_node_was_is_dropped_at_the_first_word_from_elsewhere(
    loop_kind: str,
) -> None:
    async def main() -> None:
        nodes = addresses(1, 2)
        new_port = free_ports()
        before = RawServer()  # as of a host that has vanished: its connection just stays
        await before.start(nodes[2][1])
        async with Peer(make_hello(1), nodes) as first:
            old = await before.accepted.get()
            await old.read()
            old.write(encode_accepted(announcing(2, nodes[2][1])))
            await first.until_up(2)
            moved = nodes | {2: (HOST, new_port)}
            async with Peer(announcing(2, new_port), moved) as second:
                await first.until_down(2)
                await old.until_closed()
                await first.until_up(2)
                first.send(2, 0, Channel.RAFT, b"x")
                await second.recorder.until(lambda: second.recorder.of(Channel.RAFT) == [b"x"])
        await before.close()

    run(loop_kind, main())


@every_loop
def test_a_node_that_is_not_where_it_is_said_to_be_is_looked_for_where_it_was(
    loop_kind: str,
) -> None:
    """As when all nodes move at once: only the configuration knows where they are."""

    async def main() -> None:
        nodes = addresses(1, 2)
        mapped = [NodeInfo(2, HOST, free_ports(), 1, 102, HOST, 7379)]
        first = Peer(make_hello(1), nodes)
        first.exchanger.take_map(mapped)
        assert first.registry.peer_address(2, 0) != nodes[2]
        await first.start()
        async with Peer(make_hello(2), nodes):
            await first.until_up(2)
        await first.exchanger.close()

    run(loop_kind, main())


@every_loop
def test_a_peer_of_the_version_before_is_talked_to(loop_kind: str) -> None:
    async def main() -> None:
        nodes = addresses(1, 2)
        newer = announcing(1, nodes[1][1])
        async with (
            Peer(newer, nodes) as first,
            Peer(make_hello(2, version_max=2), nodes) as second,
        ):
            await first.until_up(2)
            await second.until_up(1)
            first.send(2, 0, Channel.RAFT, b"x")
            second.send(1, 0, Channel.RAFT, b"y")
            await second.recorder.until(lambda: second.recorder.of(Channel.RAFT) == [b"x"])
            await first.recorder.until(lambda: first.recorder.of(Channel.RAFT) == [b"y"])
            assert first.registry.peer_address(2, 0) == nodes[2]
            assert second.exchanger.present_hellos() == {
                1: newer,
                2: make_hello(2, version_max=2),
            }

    run(loop_kind, main())


@every_loop
def test_who_the_map_disowns_loses_its_links_and_gets_no_others(loop_kind: str) -> None:
    async def main() -> None:
        nodes = addresses(1, 2)
        with LogRecorder() as log:
            async with (
                Peer(make_hello(1), nodes) as first,
                Peer(make_hello(2, incarnation=7), nodes) as emptied,
            ):
                await first.until_up(2)
                await emptied.until_up(1)
                assert set(first.exchanger.present_hellos()) == {1, 2}
                first.exchanger.take_map([NodeInfo(2, *nodes[2], 1, 102, HOST, 7379)])
                await first.until_down(2)
                await emptied.until_down(1)
                # Both try again, and each try is refused.
                await log.until("node 2 shard 0: cannot connect: node 2 had incarnation")
                await log.until("node 1 shard 0: cannot connect: refused by the peer: node 2 had")
                assert set(first.exchanger.present_hellos()) == {1}
                assert first.recorder.states == [(2, 0, True), (2, 0, False)]
                assert (first.exchanger.disowning(), emptied.exchanger.disowning()) == (set(), {1})
                assert emptied.exchanger.has_tried(1)
                assert not emptied.exchanger.has_tried(3)
                # Until the map lets go of the first one.
                first.exchanger.take_map([NodeInfo(2, *nodes[2])])
                await emptied.until_up(1)
                assert emptied.exchanger.disowning() == set()
                assert emptied.exchanger.version_of(1) == 1
                assert emptied.exchanger.version_of(3) == 0

    run(loop_kind, main())


@every_loop
def test_a_node_that_the_map_brings_is_dialled_once_the_exchanger_has_started(
    loop_kind: str,
) -> None:
    async def main() -> None:
        nodes = addresses(1, 2, 3)
        known = {1: nodes[1]}
        first = Peer(make_hello(1), known)
        first.exchanger.take_map([NodeInfo(2, *nodes[2], 1, 102, HOST, 7379)])
        server = RawServer()
        await server.start(nodes[2][1])
        for _ in range(10):
            await asyncio.sleep(0)
        assert server.accepted.empty(), "who is not known to be let in is not talked to"
        await first.start()
        await server.accepted.get()
        async with Peer(make_hello(3), nodes):
            first.exchanger.take_map([NodeInfo(3, *nodes[3], 1, 103, HOST, 7379)])
            await first.until_up(3)
        await first.exchanger.close()
        first.exchanger.take_map([NodeInfo(4, HOST, 1)])
        await server.close()

    run(loop_kind, main())
