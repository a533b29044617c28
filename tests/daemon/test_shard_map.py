"""The cluster's map in whole shards on a loop of the test: who is let in, and who keeps out."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from rafter_core import Message, MessageKind, Role
from rafter_transport import Channel, NodeInfo
from rafterd.cluster_map import Announce, NodeRecord, foundation, pack_command
from tests.daemon.engine_bench import run, turns, until
from tests.daemon.shard_kit import (
    INCARNATION,
    RunningServices,
    make_config,
    make_peer,
    segment_of,
    send_raft,
)
from tests.daemon.test_shard_services import damage, write_log
from tests.transport.support import HOST


def announced(node: int, incarnation: int) -> bytes:
    return pack_command(Announce(NodeRecord(node, incarnation, HOST, 17379, 1, HOST, 7379)))


def test_a_shard_founds_the_map_enters_itself_and_goes_by_it(tmp_path: Path) -> None:
    async def main() -> None:
        config = make_config(tmp_path)
        async with RunningServices(config) as running:
            machine = running.services.engine.replicas[0].machine
            expected = NodeRecord(
                1, INCARNATION, HOST, config.peer.port, 1, HOST, config.client.port
            )
            await running.tick_until(lambda: machine.lookup(1) == expected)

    run(main())


def test_an_emptied_node_is_not_let_in_from_the_first_moment(tmp_path: Path) -> None:
    """The log says who was there before, also where it does not yet know what is committed."""

    async def main() -> None:
        config = make_config(tmp_path, nodes=2, groups=1)
        payloads = [pack_command(foundation(config)), announced(2, INCARNATION + 2)]
        write_log(tmp_path, {0: payloads})
        async with RunningServices(config) as running:
            async with make_peer(config, 2, incarnation=INCARNATION + 9) as emptied:
                counters = running.services.exchanger.counters
                await until(lambda: counters.handshakes_refused_total > 4)
                assert not emptied.exchanger.is_up(1, 0)
                assert not running.services.exchanger.is_up(2, 0)
            async with make_peer(config, 2) as peer:
                await peer.until_up(1)
                await until(lambda: running.services.exchanger.is_up(2, 0))

    run(main())


def test_who_is_disowned_takes_no_part_also_with_others_that_are_not_its_judges(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Two nodes of three that were emptied made a majority, of a cluster without data."""

    async def main() -> None:
        config = make_config(tmp_path, nodes=3, groups=1, raft__first_leader="self")
        other = NodeInfo(1, HOST, config.peer.port, 1, 5, HOST, config.client.port)
        judge = make_peer(config, 3)
        judge.registry.update([other])
        async with RunningServices(config) as running, make_peer(config, 2) as peer, judge:
            exchanger = running.services.exchanger
            await until(lambda: exchanger.disowning() == {3})
            await until(lambda: exchanger.is_up(2, 0))
            await peer.until_up(1)
            node = running.services.engine.replicas[1].node
            running.services.tick()
            send_raft(peer, 1, Message(kind=MessageKind.VOTE, to=1, sender=2, term=7))
            await until(lambda: exchanger.counters.frames_received_total)
            for _ in range(100):
                running.services.tick()
                await turns(1)
            assert (node.role, node.term) == (Role.FOLLOWER, 0)
            assert sum("which takes no part until" in text for text in caplog.messages) == 1

            # It may be that the judge has not heard the news.
            own = [1, INCARNATION, HOST, config.peer.port, 1, HOST, config.client.port]
            peer.send(1, 0, Channel.CLUSTER_MAP, ["map", 9, [own]])
            await running.tick_until(lambda: node.role is not Role.FOLLOWER)

    run(main())


def test_a_shard_without_the_map_talks_to_no_other_node(tmp_path: Path) -> None:
    async def main() -> None:
        config = make_config(tmp_path, nodes=2, shards=2, groups=2)
        running = RunningServices(config, shard=1)
        starting = asyncio.create_task(running.services.start())
        async with make_peer(config, 2) as peer:
            await turns(50)
            assert not starting.done()
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection(HOST, config.peer.shard_port(1))
            handlers = running.services.exchanger._handlers
            handlers[Channel.CLUSTER_MAP](1, 0, [["map", 0, []]])
            await starting
            await until(lambda: running.services.exchanger.is_up(2, 0))
            assert peer.exchanger.present_hellos()[1].shard == 1
        await running.__aexit__()

    run(main())


def test_a_shard_whose_copy_of_the_map_is_damaged_goes_by_the_configuration(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        payload = announced(2, 5)
        write_log(tmp_path, {0: [payload], 1: [b""]})
        config = make_config(tmp_path, nodes=2, groups=1)
        damage(segment_of(config), payload)
        async with RunningServices(config) as running, make_peer(config, 2) as peer:
            assert sorted(running.services.engine.replicas) == [1]
            await peer.until_up(1)
            assert any("group 0 is not served: its log is damaged" in t for t in caplog.messages)

    run(main())


def test_what_the_map_said_stays_when_its_group_goes_out_of_service(tmp_path: Path) -> None:
    async def main() -> None:
        config = make_config(tmp_path, nodes=2, groups=1)
        payloads = [pack_command(foundation(config)), announced(2, INCARNATION + 2)]
        write_log(tmp_path, {0: payloads})
        async with RunningServices(config) as running:
            running.services.engine.on_condemned(0)
            async with make_peer(config, 2, incarnation=INCARNATION + 9):
                counters = running.services.exchanger.counters
                await until(lambda: counters.handshakes_refused_total > 2)
            async with make_peer(config, 2) as peer:
                await peer.until_up(1)
                running.services.tick()
                peer.send(1, 0, Channel.CLUSTER_MAP, ["progress", 2, 5, 1, [1]])
                await until(lambda: running.services.exchanger.counters.frames_received_total)
                running.services.tick()
                assert not running.fatal

    run(main())
