"""The services of one shard, whole, on a loop of the test: peers are real links, disks are real."""

from __future__ import annotations

from pathlib import Path

import pytest

from rafter_core import Membership, Message, MessageKind, Role
from rafter_core.messages import CAMPAIGN_TRANSFER
from rafter_kv.batch import Batch, pack_payload
from rafter_storage.segment_manager import GroupChange, GroupWrite, SegmentManager
from rafter_transport import Channel
from rafterd.requests import Request, Status, decode_reply, encode_request
from rafterd.shared import Counter, GroupState, GroupWord, SharedState
from tests.daemon.engine_bench import entry, run, turns, until
from tests.daemon.shard_kit import (
    LAYOUT,
    RunningServices,
    make_config,
    make_peer,
    raft_kinds,
    segment_of,
    send_raft,
)

SET = [b"SET", b"key", b"value"]


def write_request(group: int = 1, sequence: int = 1) -> list[object]:
    return encode_request(Request(Batch(group, 5, sequence, 1, [SET]), 9, 1, None))


def damage(path: Path, payload: bytes) -> int:
    """Flip a bit of the record that holds `payload`; return where."""
    content = bytearray(path.read_bytes())
    offset = content.index(payload)
    content[offset] ^= 1
    path.write_bytes(content)
    return offset


def write_log(
    directory: Path, groups: dict[int, list[bytes]], cut: dict[int, int] | None = None
) -> None:
    """Leave a log behind as an earlier life would: one record for each payload."""
    shard = directory / "data" / f"shards-{LAYOUT:05d}" / "00000"
    shard.mkdir(parents=True)
    store = SegmentManager(shard, segment_bytes=1 << 20)
    store.create()
    store.open()
    for group, payloads in groups.items():
        store.group_log(group, Membership((1,)))
        for index, payload in enumerate(payloads, 1):
            job = store.begin([GroupWrite(group, None, [entry(1, index, payload)])])
            job.run()
            store.complete(job)
    for group, index in (cut or {}).items():
        job = store.begin([], [GroupChange(group, snapshot=(index, 1), compact_to=index)])
        job.run()
        store.complete(job)
    store.close()


# ---- damage ----------------------------------------------------------------------------------


def test_a_damaged_group_is_not_served_and_the_others_are(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        payloads = {g: [pack_payload(1, [Batch(g, 1, 1, 1, [[b"SET", b"k%d" % g, b"v"]])])]
                    for g in (1, 2, 3)}  # fmt: skip
        write_log(tmp_path, payloads)
        config = make_config(tmp_path, groups=3)
        damage(segment_of(config), payloads[2][0])
        async with RunningServices(config) as running:
            assert sorted(running.services.engine.replicas) == [0, 1, 3]
            await running.lead()
            assert running.services.is_replayed()
            running.services.publish()
            states = [running.shared.get_group(group, GroupWord.STATE) for group in (1, 2, 3)]
            assert states == [GroupState.SERVING, GroupState.DAMAGED, GroupState.SERVING]
            assert running.shared.get_group(1, GroupWord.KEYS) == 1
            (text,) = [
                text for text in caplog.messages if "is not served" in text and "its log" in text
            ]
            assert text.startswith("group 2 is not served")
            assert str(segment_of(config)) in text
            assert "offset" in text
            assert not running.fatal

    run(main())


def test_a_request_for_a_damaged_group_is_turned_away(tmp_path: Path) -> None:
    async def main() -> None:
        write_log(tmp_path, {1: [b"one", b"two"]})
        config = make_config(tmp_path, nodes=2, groups=1)
        damage(segment_of(config), b"one")
        async with RunningServices(config), make_peer(config, 2) as peer:
            await peer.until_up(1)
            peer.send(1, 0, Channel.REQUEST, write_request(1), write_request(99))
            await peer.recorder.until(lambda: len(peer.recorder.of(Channel.REPLY)) == 2)
            replies = [decode_reply(item) for item in peer.recorder.of(Channel.REPLY)]
            assert [reply.status for reply in replies] == [Status.NOT_LEADER] * 2
            assert [reply.leader for reply in replies] == [0, 0]

    run(main())


def test_a_group_whose_log_is_cut_and_that_has_no_snapshot_is_not_served(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        write_log(tmp_path, {1: [b"one"], 2: []}, cut={1: 1})
        async with RunningServices(make_config(tmp_path)) as running:
            assert list(running.services.engine.replicas) == [0, 2]
            await running.lead()
            assert running.services.is_replayed()
            running.services.publish()
            states = [running.shared.get_group(group, GroupWord.STATE) for group in (1, 2)]
            assert states == [GroupState.DAMAGED, GroupState.SERVING]
            assert "group 1 is not served: its log begins at index 2" in caplog.text

    run(main())


# ---- snapshots and replay ----------------------------------------------------------------------


def test_a_start_goes_on_from_snapshots_and_shows_that_it_lives(tmp_path: Path) -> None:
    async def main() -> None:
        config = make_config(tmp_path, groups=1, snapshot__log_entries=2)

        async def write(running: RunningServices, count: int) -> None:
            await running.lead()
            machine = running.services._machines[1]
            keys = machine.key_count
            for number in range(keys + 1, keys + count + 1):
                batch = Batch(1, 5, number, number, [[b"SET", b"k%d" % number, b"v"]])
                running.services._services[1].submit(Request(batch, number, 1, None))
                await until(lambda number=number: machine.key_count == number)  # type: ignore[misc]

        async with RunningServices(config) as first:
            await write(first, 3)
            first.services.publish()
            await until(lambda: first.services._snapshot_store.newest(1))
            await write(first, 1)
            digest = first.services._machines[1].hash()
        second = RunningServices(config)
        # Once for each chunk that is read; each of these snapshots has one.
        taken = second.services._snapshot_store.groups()
        assert 1 in taken
        assert second.shared.get(0, Counter.HEARTBEAT) == len(taken)
        replica = second.services.engine.replicas[1]
        assert replica.applied.index == 4
        async with second:
            await second.lead()
            assert second.services.is_replayed()
            # The last entry may have to be committed anew, by one of the new term.
            await until(lambda: second.services._machines[1].key_count == 4)
            assert second.services._machines[1].hash() == digest

    run(main())


# ---- elections ---------------------------------------------------------------------------------


def test_replay_is_over_when_everything_committed_before_is_applied(tmp_path: Path) -> None:
    async def main() -> None:
        config = make_config(tmp_path, groups=1)
        async with RunningServices(config) as first:
            await first.lead()
            request = Request(Batch(1, 5, 1, 1, [SET]), 1, 1, None)
            first.services._services[1].submit(request)
            await until(lambda: first.services._machines[1].key_count)
            request = Request(Batch(1, 5, 2, 1, [SET]), 2, 1, None)
            first.services._services[1].submit(request)
            applied = first.services.engine.replicas[1].node
            await until(lambda: applied.applied == 3)
        second = RunningServices(config)
        assert not second.services.is_replayed()
        async with second:
            await until(second.services.is_replayed)
            assert second.services._machines[1].key_count == 1

    run(main())


def test_an_election_that_is_under_way_is_not_begun_again_at_each_tick(tmp_path: Path) -> None:
    """On a disk slower than a tick no vote became durable in the term that it was cast in."""

    async def main() -> None:
        async with RunningServices(make_config(tmp_path, groups=1)) as running:
            node = running.services.engine.replicas[1].node
            running.services.tick()
            while node.role is not Role.CANDIDATE:
                await turns(1)
            for _ in range(5):
                running.services.tick()
            await until(lambda: node.is_leader)
            assert node.term == 1

    run(main())


def test_a_shard_that_starts_again_over_an_emptied_log_serves_none_of_its_groups(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        write_log(tmp_path, {1: [], 2: []})
        config = make_config(tmp_path, groups=2)
        segment_of(config).unlink()
        async with RunningServices(config) as running:
            assert not running.services.engine.replicas
            running.services.publish()
            states = [running.shared.get_group(group, GroupWord.STATE) for group in (1, 2)]
            assert states == [GroupState.DAMAGED, GroupState.DAMAGED]
        assert any("has no segment left" in text for text in caplog.messages)

    run(main())


def test_a_group_with_peers_waits_until_it_hears_a_quorum(tmp_path: Path) -> None:
    async def main() -> None:
        config = make_config(tmp_path, nodes=2, groups=2)
        async with RunningServices(config) as running:
            chosen = next(g for g in (1, 2) if config.members(g)[0] == 1)
            replicas = running.services.engine.replicas
            running.services.tick()
            assert all(replica.node.role is Role.FOLLOWER for replica in replicas.values())
            async with make_peer(config, 2) as peer:
                await until(lambda: running.services.exchanger.is_up(2, 0))
                await peer.until_up(1)
                running.services.tick()
                roles = {group: replica.node.role for group, replica in replicas.items()}
                assert roles == {
                    0: Role.PRE_CANDIDATE,
                    chosen: Role.PRE_CANDIDATE,
                    3 - chosen: Role.FOLLOWER,
                }

    run(main())


# ---- peers -----------------------------------------------------------------------------------


def test_a_message_in_another_nodes_name_closes_the_link(tmp_path: Path) -> None:
    async def main() -> None:
        config = make_config(tmp_path, nodes=3, groups=1)
        async with RunningServices(config) as running, make_peer(config, 2) as peer:
            await peer.until_up(1)
            send_raft(peer, 1, Message(kind=MessageKind.VOTE, to=1, sender=3, term=5))
            await peer.until_down(1)
            assert running.services.exchanger.counters.bad_frames_total == 1
            assert running.services.engine.replicas[1].node.term == 0
            # It is no reason to stop, and the peer may come back.
            await peer.until_up(1)
            assert not running.fatal

    run(main())


@pytest.mark.parametrize(
    ("channel", "item"),
    [
        (Channel.RAFT, [1, 2, 3]),
        (Channel.REQUEST, [1, 1]),
        (Channel.REPLY, "x"),
        (Channel.ADMIN, ["status-of", 1, "1.0"]),
        (Channel.CLUSTER_MAP, ["progress", 1]),
        (Channel.CLUSTER_MAP, ["map", 1]),
    ],
)
def test_a_malformed_item_closes_the_link(tmp_path: Path, channel: Channel, item: object) -> None:
    async def main() -> None:
        config = make_config(tmp_path, nodes=2, groups=1)
        async with RunningServices(config) as running, make_peer(config, 2) as peer:
            await peer.until_up(1)
            peer.send(1, 0, channel, item)
            await peer.until_down(1)
            assert not running.fatal

    run(main())


def test_a_broken_invariant_stops_the_shard(tmp_path: Path) -> None:
    async def main() -> None:
        config = make_config(tmp_path, nodes=2, groups=1)
        async with RunningServices(config) as running, make_peer(config, 2) as peer:
            await peer.until_up(1)
            beyond = Message(kind=MessageKind.HEARTBEAT, to=1, sender=2, term=1, commit=50)
            send_raft(peer, 1, beyond)
            (error,) = await until(lambda: running.fatal)
            assert "commit index 50" in str(error)

    run(main())


def test_a_vote_is_durable_when_a_peer_hears_of_it(tmp_path: Path) -> None:
    async def main() -> None:
        config = make_config(tmp_path, nodes=2, groups=1)
        async with make_peer(config, 2) as peer:
            async with RunningServices(config):
                await peer.until_up(1)
                vote = Message(
                    kind=MessageKind.VOTE, to=1, sender=2, term=7, context=CAMPAIGN_TRANSFER
                )
                send_raft(peer, 1, vote)
                await peer.recorder.until(lambda: bool(peer.recorder.of(Channel.RAFT)))
            async with RunningServices(config) as again:
                node = again.services.engine.replicas[1].node
                assert (node.term, node.vote) == (7, 2)

    run(main())


def test_the_first_answer_to_a_shard_that_no_link_leads_to_arrives(tmp_path: Path) -> None:
    """Nobody dials shard 1 of node 2 before something must be said to it."""

    async def main() -> None:
        config = make_config(tmp_path, nodes=2, groups=1)
        async with (
            RunningServices(config) as running,
            make_peer(config, 2, shards=2) as base,
            make_peer(config, 2, shard=1, shards=2) as peer,
        ):
            await base.until_up(1)
            await peer.until_up(1)
            assert not running.services.exchanger.is_up(2, 1)
            peer.send(1, 0, Channel.REQUEST, write_request())
            peer.send(1, 0, Channel.ADMIN, ["status", 4])
            await peer.recorder.until(
                lambda: bool(peer.recorder.of(Channel.REPLY) and peer.recorder.of(Channel.ADMIN))
            )
            assert peer.recorder.of(Channel.ADMIN)[0][:2] == ["status-of", 4]

    run(main())


def test_a_link_that_breaks_makes_a_leader_probe(tmp_path: Path) -> None:
    async def main() -> None:
        config = make_config(tmp_path, nodes=2, groups=1)
        async with RunningServices(config) as running:
            node = running.services.engine.replicas[1].node
            async with make_peer(config, 2) as peer:
                await until(lambda: running.services.exchanger.is_up(2, 0))
                await peer.until_up(1)
                node.campaign()
                running.services.engine.schedule()
                running.services.engine.mark(running.services.engine.replicas[1])
                send_raft(
                    peer, 1,
                    Message(kind=MessageKind.PRE_VOTE_RESPONSE, to=1, sender=2, term=1),
                )  # fmt: skip
                await until(lambda: node.term == 1)
                send_raft(peer, 1, Message(kind=MessageKind.VOTE_RESPONSE, to=1, sender=2, term=1))
                await until(lambda: node.is_leader)
                send_raft(
                    peer, 1,
                    Message(kind=MessageKind.APPEND_RESPONSE, to=1, sender=2, term=1, index=1),
                )  # fmt: skip
                await until(lambda: node.status().progress[2].mode.name == "REPLICATE")
            await until(lambda: node.status().progress[2].mode.name == "PROBE")

    run(main())


# ---- counters and the end --------------------------------------------------------------------


def test_what_a_shard_counts_is_published(tmp_path: Path) -> None:
    async def main() -> None:
        config = make_config(tmp_path, nodes=2, groups=1)
        async with RunningServices(config) as running, make_peer(config, 2) as peer:
            await peer.until_up(1)
            peer.send(1, 0, Channel.REQUEST, write_request())
            await peer.recorder.until(lambda: bool(peer.recorder.of(Channel.REPLY)))
            running.services.publish()
            words = running.shared.counter_words(0)
            assert words[Counter.PEER_FRAMES_RECEIVED_TOTAL] >= 1
            assert words[Counter.PEER_FRAMES_SENT_TOTAL] >= 1
            assert words[Counter.PEER_LINKS_UP] == 1

    run(main())


def test_keys_past_their_deadline_are_removed_by_the_leader(tmp_path: Path) -> None:
    async def main() -> None:
        async with RunningServices(make_config(tmp_path, groups=1)) as running:
            await running.lead()
            services = running.services
            command = [b"SET", b"k", b"v", b"PXAT", b"1000"]
            keep = [b"SET", b"k2", b"v", b"PX", b"20"]
            request = Request(Batch(1, 5, 1, 1, [command, keep]), 1, 1, None)
            services._services[1].submit(request)
            await until(lambda: services._machines[1].expires_count)

            def removed() -> bool:
                services.expire_due_keys()
                return not services._machines[1].key_count

            await until(removed)

    run(main())


def test_a_shard_is_not_drained_while_clients_of_a_sister_shard_wait(tmp_path: Path) -> None:
    """It ended first, and what the sister had forwarded to it was never answered."""

    async def main() -> None:
        shared = SharedState(2, 2)
        config = make_config(tmp_path, shards=2, groups=2)
        async with RunningServices(config, shared=shared) as running:
            await running.lead()
            running.services.begin_drain()
            assert running.services.is_drained()
            shared.set_counter(1, Counter.CLIENTS, 1)
            assert not running.services.is_drained()
            shared.set_counter(1, Counter.CLIENTS, 0)
            assert running.services.is_drained()

    run(main())


def test_draining_hands_leadership_to_the_most_advanced_follower(tmp_path: Path) -> None:
    async def main() -> None:
        config = make_config(tmp_path, nodes=3, groups=1)
        async with (
            RunningServices(config) as running,
            make_peer(config, 2) as second,
            make_peer(config, 3) as third,
        ):
            services = running.services
            replica = services.engine.replicas[1]
            node = replica.node
            for peer in (second, third):
                await peer.until_up(1)
            await until(lambda: services.exchanger.is_up(3, 0) and services.exchanger.is_up(2, 0))
            node.campaign()
            services.engine.mark(replica)

            def say(peer_node: int, kind: MessageKind, index: int = 0) -> None:
                peer = second if peer_node == 2 else third
                message = Message(kind=kind, to=1, sender=peer_node, term=1, index=index)
                send_raft(peer, 1, message)

            say(2, MessageKind.PRE_VOTE_RESPONSE)
            await until(lambda: node.term == 1)
            say(2, MessageKind.VOTE_RESPONSE)
            await until(lambda: node.is_leader)
            say(2, MessageKind.APPEND_RESPONSE, 0)
            say(3, MessageKind.APPEND_RESPONSE, 1)
            await until(lambda: node.commit == 1)
            services.begin_drain()
            assert not services.is_drained()
            services.hand_over_leadership()
            services.hand_over_leadership()
            await third.recorder.until(lambda: MessageKind.TIMEOUT_NOW in raft_kinds(third))
            assert MessageKind.TIMEOUT_NOW not in raft_kinds(second)
            taken_over = Message(kind=MessageKind.HEARTBEAT, to=1, sender=3, term=2)
            send_raft(third, 1, taken_over)
            await until(services.is_drained)

    run(main())
