"""Where a node starts from, and in what pages it goes through its log."""

from __future__ import annotations

import random

import pytest

import rafter_core
from rafter_core import (
    Change,
    ChangeKind,
    ConfChange,
    Config,
    EntryKind,
    HardState,
    InvariantError,
    Membership,
    MemoryStorage,
    RawNode,
    Role,
    Snapshot,
    SoftState,
)
from rafter_core.conf_change import decode, encode
from tests.core.network import Host, Network
from tests.core.support import THREE, Driven, both_modes, entry, log_of


def test_a_restart_continues_from_storage() -> None:
    driven = Driven()
    driven.lead_replicating()
    driven.node.propose(b"x")
    driven.pump()
    driven.acknowledge(2)
    node = RawNode(Config(node_id=1, applied=1), driven.storage, random.Random(1))
    assert (node.term, node.vote, node.commit, node.last_index) == (1, 1, 2, 2)
    assert not node.is_leader
    ready = node.ready()
    assert ready.hard_state is None
    assert [e.index for e in ready.committed] == [2]
    node.apply_done(2)
    assert node.applied == 2


def test_a_page_of_committed_entries_after_a_restart_skips_nothing() -> None:
    driven = Driven(terms=[1] * 10, hard_state=HardState(1, 0, 10), committed_bytes_per_ready_max=1)
    driven.pump()
    assert [e.index for e in driven.committed] == list(range(1, 11))


# Where a node starts from.


def test_a_founding_node_hands_out_its_members_and_then_elects_itself() -> None:
    storage = MemoryStorage()
    node = RawNode(Config(node_id=1, async_storage_writes=False), storage, random.Random(1))
    node.bootstrap([1])
    payload = encode(ConfChange((Change(ChangeKind.ADD_VOTER, 1),), is_v1=True))
    founding = entry(1, 1, payload)._replace(kind=EntryKind.CONFIG_CHANGE)
    ready = node.ready()
    assert (ready.hard_state, ready.must_sync) == (HardState(1, 0, 1), True)
    assert ready.entries == ready.committed == [founding]
    storage.store(ready)
    node.apply_conf_change(decode(EntryKind.CONFIG_CHANGE, payload))
    node.advance()
    assert not node.has_ready()
    assert node.membership == Membership((1,))
    node.campaign()
    seen = []
    while node.has_ready():
        ready = node.ready()
        storage.store(ready)
        seen.append((ready.soft_state, ready.hard_state, len(ready.entries), len(ready.committed)))
        node.advance()
    assert seen == [
        (SoftState(0, Role.PRE_CANDIDATE), None, 0, 0),
        (SoftState(0, Role.CANDIDATE), HardState(2, 1, 1), 0, 0),
        (SoftState(1, Role.LEADER), None, 1, 0),
        (None, HardState(2, 1, 2), 0, 1),
    ]


@both_modes
def test_a_founded_group_elects_and_replicates(async_storage_writes: bool) -> None:
    nobody = Membership(())
    network = Network(
        *(
            Host(node, nobody, async_storage_writes=async_storage_writes, storage=MemoryStorage())
            for node in (1, 2, 3)
        )
    )
    for host in network.hosts.values():
        host.node.bootstrap([1, 2, 3])
    network.run()
    network.campaign(2)
    assert network.leaders() == [2]
    assert network.propose(1, b"x")
    for host in network.hosts.values():
        assert host.node.membership == THREE
        assert [item.index for item in host.applied] == [1, 2, 3, 4, 5]
        assert host.payloads == [b"x"]


@pytest.mark.parametrize("hard_state", [HardState(1, 0, 0), None])
def test_only_an_empty_storage_can_be_bootstrapped(hard_state: HardState | None) -> None:
    driven = Driven(terms=[] if hard_state else [1], hard_state=hard_state)
    with pytest.raises(InvariantError, match="only an empty storage can be bootstrapped"):
        driven.node.bootstrap([1])


@both_modes
def test_a_restart_with_a_snapshot_hands_out_only_what_follows_it(
    async_storage_writes: bool,
) -> None:
    storage = MemoryStorage()
    storage.apply_snapshot(Snapshot(2, 1, Membership((1, 2)), b"image"))
    storage.append([entry(1, 3, b"foo")])
    storage.set_hard_state(HardState(1, 0, 3))
    config = Config(node_id=1, applied=2, async_storage_writes=async_storage_writes)
    node = RawNode(config, storage, random.Random(1))
    assert node.membership == Membership((1, 2))
    ready = node.ready()
    assert (ready.hard_state, ready.snapshot, ready.entries, ready.must_sync) == (
        None,
        None,
        [],
        False,
    )
    assert ready.committed == [entry(1, 3, b"foo")]


def test_a_restart_without_progress_has_no_work() -> None:
    driven = Driven(terms=[1, 1], hard_state=HardState(1, 2, 2))
    driven.restart(applied=2)
    assert (driven.node.term, driven.node.vote, driven.node.commit) == (1, 2, 2)
    assert not driven.node.has_ready()


# Pages.


def test_committed_entries_come_in_pages_of_which_one_is_applied_at_a_time() -> None:
    size = rafter_core.entry_bytes(entry(1, 1))
    driven = Driven(
        terms=[1] * 5, hard_state=HardState(1, 0, 5), committed_bytes_per_ready_max=2 * size
    )
    node = driven.node
    pages = []
    while node.has_ready():
        ready = node.ready()
        assert not node.has_ready()  # Nothing more before this page is applied.
        node.storage_done(ready)
        assert not node.has_ready()
        node.apply_done(ready.committed[-1].index)
        pages.append([item.index for item in ready.committed])
    assert pages == [[1, 2], [3, 4], [5]]


def test_a_synchronous_driver_gets_the_same_pages() -> None:
    size = rafter_core.entry_bytes(entry(1, 1))
    driven = Driven(
        terms=[1] * 5,
        hard_state=HardState(1, 0, 5),
        committed_bytes_per_ready_max=2 * size,
        async_storage_writes=False,
    )
    pages = []
    while driven.node.has_ready():
        ready = driven.node.ready()
        pages.append([item.index for item in ready.committed])
        driven.store(ready)
    assert pages == [[1, 2], [3, 4], [5]]


class Generous(MemoryStorage):
    """Returns more than the limit, as a storage that rounds up to its blocks may."""

    def entries(self, low: int, high: int, bytes_max: int) -> list[rafter_core.Entry]:
        return super().entries(low, high, bytes_max + 20)


@both_modes
def test_a_storage_that_returns_more_than_the_limit_makes_no_entry_skipped(
    async_storage_writes: bool,
) -> None:
    storage = Generous(Membership((1,)))
    storage.append(log_of(*[1] * 10))
    storage.set_hard_state(HardState(1, 0, 10))
    config = Config(
        node_id=1,
        committed_bytes_per_ready_max=rafter_core.entry_bytes(entry(1, 1)) * 3,
        async_storage_writes=async_storage_writes,
    )
    node = RawNode(config, storage, random.Random(1))
    applied = []
    while node.has_ready():
        ready = node.ready()
        storage.store(ready)
        applied += [item.index for item in ready.committed]
        if not async_storage_writes:
            node.advance()
            continue
        node.storage_done(ready)
        if ready.committed:
            node.apply_done(ready.committed[-1].index)
    assert applied == list(range(1, 11))


def test_a_follower_that_catches_up_is_sent_pages() -> None:
    network = Network(count=3, message_bytes_max=2048)
    network.campaign(1)
    network.isolate(3)
    for _ in range(5):
        network.propose(1, b"a" * 1000)
    network.heal()
    network.delivered.clear()
    network.tick(1)
    sizes = [
        [len(item.payload) for item in message.entries]
        for message in network.delivered
        if message.to == 3 and message.entries
    ]
    assert sizes == [[1000, 1000], [1000, 1000], [1000]]
    assert network[3].log == network[1].log
