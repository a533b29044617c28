"""The state machine of the cluster's map: commands, refusals, snapshots."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rafter_core import DecodeError, StateMachine
from rafter_core.state_machine import Update
from rafterd.cluster_map import (
    Announce,
    Command,
    Found,
    GroupRecord,
    MapState,
    NodeRecord,
    pack_command,
)
from rafterd.cluster_map_machine import ClusterMapMachine

SEEDS = [NodeRecord(3, 0, "c", 3), NodeRecord(1, 0, "a", 1), NodeRecord(2, 0, "b", 2)]
FOUND = Found(SEEDS, [GroupRecord(1, 0, 16383, [1, 2, 3])])


def do(machine: ClusterMapMachine, *commands: Command) -> list[object]:
    first = machine.state.version + 1
    return machine.update(
        [Update(index, pack_command(command)) for index, command in enumerate(commands, first)]
    )


def founded() -> ClusterMapMachine:
    machine = ClusterMapMachine()
    assert do(machine, FOUND) == [None]
    return machine


def test_it_is_a_state_machine_that_begins_with_nothing() -> None:
    machine: StateMachine = ClusterMapMachine()
    assert machine.open() == 0
    assert machine.lookup(1) is None
    assert machine.update([Update(1, b"")]) == [None]
    assert machine.hash() == ClusterMapMachine().hash()


def test_a_map_is_founded_once() -> None:
    machine = founded()
    assert list(machine.state.nodes) == [1, 2, 3], "in order, however they came"
    assert machine.state.version == 1
    other = Found([NodeRecord(9, 0, "x", 1)], FOUND.groups)
    assert do(machine, other) == ["the map has been founded before"]
    assert machine.state.version == 1
    assert machine.lookup(9) is None


def test_a_node_is_entered_and_may_change_all_but_its_incarnation() -> None:
    machine = founded()
    first = NodeRecord(2, 7, "b", 2, 1, "clients", 5)
    moved = NodeRecord(2, 7, "elsewhere", 3, 4, "clients2", 6)
    assert do(machine, Announce(first), Announce(moved)) == [None, None]
    assert machine.lookup(2) == moved
    assert machine.state.version == 3
    (refusal,) = do(machine, Announce(NodeRecord(2, 8, "b", 2, 1, "clients", 5)))
    assert refusal == (
        "node 2 has incarnation 0000000000000007 in the map, and not 0000000000000008"
    )
    assert machine.lookup(2) == moved


def test_a_node_that_is_not_in_the_map_is_refused() -> None:
    assert do(founded(), Announce(NodeRecord(4, 7, "d", 4))) == ["node 4 is not in the map"]
    assert do(ClusterMapMachine(), Announce(SEEDS[0])) == ["node 3 is not in the map"]


def test_what_changes_nothing_makes_no_new_version() -> None:
    machine = founded()
    announce = Announce(NodeRecord(2, 7, "b", 2, 1, "clients", 5))
    do(machine, announce)
    before = machine.state
    assert do(machine, announce) == [None]
    assert machine.state is before


def test_an_entry_that_cannot_be_read_stops_the_replica_and_changes_nothing() -> None:
    machine = founded()
    before = machine.state
    with pytest.raises(DecodeError):
        machine.update([Update(2, b"\x92\x02\x90")])
    assert machine.state is before


nodes = st.integers(1, 4)
few = st.integers(0, 2)
announcements = st.builds(
    lambda node, incarnation, port: Announce(NodeRecord(node, incarnation, "h", port)),
    nodes, few, few,
)  # fmt: skip


@given(st.lists(announcements | st.just(FOUND), max_size=12), st.data())
def test_replicas_agree_however_they_came_by_the_entries(
    log: list[Command], data: st.DataObject
) -> None:
    """One applies all in one go; one entry by entry, from a snapshot at some point."""
    whole, parts = ClusterMapMachine(), ClusterMapMachine()
    results = do(whole, *log)
    cut = data.draw(st.integers(0, len(log)))
    found = [do(parts, command)[0] for command in log[:cut]]
    again = ClusterMapMachine()
    again.recover_from_snapshot(parts.save_snapshot(parts.prepare_snapshot()))
    found += [do(again, command)[0] for command in log[cut:]]
    assert found == results
    assert again.hash() == whole.hash()
    assert again.state == whole.state


def test_a_snapshot_is_of_the_moment_when_it_was_prepared() -> None:
    machine = founded()
    prepared = machine.prepare_snapshot()
    do(machine, Announce(NodeRecord(2, 7, "b", 2)))
    other = ClusterMapMachine()
    other.recover_from_snapshot(machine.save_snapshot(prepared))
    assert other.state.version == 1
    assert other.hash() != machine.hash()


def test_a_damaged_snapshot_is_refused_and_changes_nothing() -> None:
    machine = founded()
    image = b"".join(machine.save_snapshot(machine.prepare_snapshot()))
    before = machine.state
    for damaged in (image[:-1], image + b"\0", image.replace(b"rafter-map", b"rafter-kv!")):
        with pytest.raises(DecodeError, match="a snapshot of the cluster's map cannot be read"):
            machine.recover_from_snapshot([damaged])
    assert machine.state is before
    machine.close()
    assert machine.state == MapState()


def test_the_first_format_stays_readable() -> None:
    machine = ClusterMapMachine()
    machine.recover_from_snapshot([FIXTURE_1])
    assert machine.state.version == 2
    assert machine.lookup(1) == NodeRecord(1, 7, "a", 1, 2, "ca", 4)
    assert machine.state.groups == {1: GroupRecord(1, 0, 16383, [1])}


FIXTURE_1 = bytes.fromhex("95aa7261667465722d6d6170010291970107a1610102a263610491940100cd3fff9101")
