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
    Phase,
    Progress,
    Replace,
    Replacement,
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


# ---- replacing -------------------------------------------------------------------------------


def with_nodes(*nodes: int) -> ClusterMapMachine:
    """Return a founded map in which nodes have been entered, each with its tenfold."""
    machine = founded()
    do(machine, *(Announce(NodeRecord(node, 10 * node, "h", 5, 1, "c", 6)) for node in nodes))
    return machine


def left(node: int, *groups: int) -> Progress:
    return Progress(node, 10 * node, Phase.LEAVING, list(groups))


def joined(node: int, *groups: int) -> Progress:
    return Progress(node, 10 * node, Phase.JOINING, list(groups))


def test_a_node_leaves_all_its_groups_before_another_may_come() -> None:
    machine = with_nodes(1, 2, 3)
    assert do(machine, Replace(2, 20)) == [None]
    assert machine.state.replacements == {2: Replacement(2, 20, Phase.LEAVING, [0, 1])}
    stranger = Announce(NodeRecord(2, 7, "h", 5))
    assert do(machine, left(2, 1), stranger) == [
        None,
        "node 2 has incarnation 0000000000000014 in the map, and not 0000000000000007",
    ]
    do(machine, left(2, 0))
    assert machine.state.nodes[2].incarnation == 0
    assert machine.state.replacements == {2: Replacement(2, 20, Phase.JOINING, [0, 1], 1)}
    assert do(machine, stranger) == [None]
    do(machine, joined(2, 0, 1))
    assert machine.state.replacements == {}
    assert machine.state.nodes[2].incarnation == 7
    assert do(machine, Replace(2, 7)) == [None], "it may happen again"


def test_progress_of_another_replacement_phase_or_group_counts_for_nothing() -> None:
    machine = with_nodes(1, 2, 3)
    do(machine, Replace(2, 20))
    before = machine.state
    do(
        machine, joined(2, 0, 1), left(3, 0, 1), left(2, 9),
        Progress(2, 21, Phase.LEAVING, [0, 1]),
    )  # fmt: skip
    assert machine.state is before


@pytest.mark.parametrize(
    ("command", "refusal"),
    [
        (Replace(9, 90), "node 9 is not in the map"),
        (Replace(3, 0), "node 3 has never been seen: whoever comes first under this id is let in"),
        (Replace(2, 21), "node 2 does not have incarnation 0000000000000015 any more"),
        (Replace(3, 30), "node 3 does not have incarnation 000000000000001e any more"),
    ],
)
def test_what_cannot_be_replaced_is_refused(command: Command, refusal: str) -> None:
    machine = with_nodes(1, 2)
    before = machine.state
    assert do(machine, command) == [refusal]
    assert machine.state is before


def test_the_only_replica_of_a_group_is_not_given_up() -> None:
    machine = ClusterMapMachine()
    do(machine, Found(SEEDS, [GroupRecord(1, 0, 99, [1, 3]), GroupRecord(2, 100, 199, [2])]))
    do(machine, Announce(NodeRecord(2, 20, "b", 2)))
    assert do(machine, Replace(2, 20)) == [
        "group 2 has no replica but that of node 2: its data would be lost"
    ]


def test_only_the_groups_of_a_node_are_left_and_joined() -> None:
    machine = ClusterMapMachine()
    do(machine, Found(SEEDS, [GroupRecord(1, 0, 99, [1, 3]), GroupRecord(2, 100, 199, [3, 2])]))
    do(machine, Announce(NodeRecord(2, 20, "b", 2)), Replace(2, 20))
    assert machine.state.replacements[2].pending == [0, 2]


def test_asking_twice_changes_nothing() -> None:
    machine = with_nodes(1, 2, 3)
    do(machine, Replace(2, 20), left(2, 0))
    before = machine.state
    assert do(machine, Replace(2, 20)) == [None]
    assert machine.state is before
    do(machine, left(2, 1))
    joining = machine.state
    assert do(machine, Replace(2, 20), Replace(2, 0)) == [None, None]
    assert machine.state is joining


def test_nodes_without_memory_come_in_one_after_the_other() -> None:
    """Two of them, asked by one that knows neither has left, would be a majority that forgets."""
    machine = with_nodes(1, 2, 3)
    do(machine, Replace(2, 20), Replace(3, 30), left(3, 0, 1), left(2, 0, 1))
    first, second = machine.state.replacements[3], machine.state.replacements[2]
    assert (first.phase, second.phase) == (Phase.JOINING, Phase.LEAVING)
    assert machine.state.nodes[2].incarnation == 20
    do(machine, Announce(NodeRecord(3, 31, "c", 3)), joined(3, 0, 1))
    assert machine.state.replacements == {2: Replacement(2, 20, Phase.JOINING, [0, 1], 1)}
    assert machine.state.nodes[2].incarnation == 0


def test_one_that_is_lost_again_keeps_its_turn() -> None:
    machine = with_nodes(1, 2, 3)
    do(machine, Replace(2, 20), left(2, 0, 1), Announce(NodeRecord(2, 21, "b", 2)))
    do(machine, Replace(3, 30), left(3, 0, 1), joined(2, 0))
    assert do(machine, Replace(2, 21)) == [None]
    again = machine.state.replacements[2]
    assert again == Replacement(2, 21, Phase.LEAVING, [0, 1], 1)
    assert machine.state.nodes[2].incarnation == 21
    assert machine.state.replacements[3].phase is Phase.LEAVING, "somebody without memory is in"
    do(machine, Progress(2, 21, Phase.LEAVING, [0, 1]))
    assert machine.state.nodes[2].incarnation == 0
    assert machine.state.replacements[2].admissions == 2
    assert machine.state.nodes[3].incarnation == 30


# ---- replicas --------------------------------------------------------------------------------

nodes = st.integers(1, 4)
few = st.integers(0, 2)
announcements = st.builds(
    lambda node, incarnation, port: Announce(NodeRecord(node, incarnation, "h", port)),
    nodes,
    few,
    few,
)
replacing = st.builds(Replace, nodes, few) | st.builds(
    Progress, nodes, few, st.sampled_from(Phase), st.sampled_from([[0], [1], [0, 1]])
)


@given(st.lists(announcements | replacing, max_size=40))
def test_never_is_more_than_one_node_without_memory_let_in(log: list[Command]) -> None:
    machine = founded()
    for command in log:
        do(machine, command)
        state = machine.state
        let_in = [item.node for item in state.replacements.values() if item.admissions]
        assert len(let_in) <= 1
        for item in state.replacements.values():
            assert item.pending
            if item.phase is Phase.LEAVING:
                assert state.nodes[item.node].incarnation == item.incarnation


@given(st.lists(announcements | replacing | st.just(FOUND), max_size=20), st.data())
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
    assert machine.state.replacements == {1: Replacement(1, 6, Phase.JOINING, [0], 1)}


FIXTURE_1 = bytes.fromhex(
    "96aa7261667465722d6d6170010291970107a1610102a263610491940100cd3fff91019195010602910001"
)
