"""Configurations as values: their halves, their nodes, and what is wrong with bad ones."""

from __future__ import annotations

import pytest

from rafter_core import NUMBER_MAX, Membership

JOINT = Membership((1, 2, 3), (3, 4), (5,), (4,), True, (2,))


def test_a_plain_configuration_has_one_half_and_no_extras() -> None:
    plain = Membership((1, 2, 3))
    assert plain == Membership((1, 2, 3), (), (), (), False, ())
    assert not plain.is_joint
    assert plain.halves == ((1, 2, 3),)
    assert plain.all_voters == (1, 2, 3)
    assert plain.nodes == (1, 2, 3)
    assert plain.fault() is None


def test_a_joint_configuration_has_two_halves_and_lists_each_node_once() -> None:
    assert JOINT.is_joint
    assert JOINT.halves == ((1, 2, 3), (3, 4))
    assert JOINT.all_voters == (1, 2, 3, 4)
    assert JOINT.nodes == (1, 2, 3, 4, 5)
    assert JOINT.fault() is None


def test_learners_are_nodes_but_no_voters() -> None:
    item = Membership((2, 4), learners=(1, 3))
    assert item.all_voters == (2, 4)
    assert item.nodes == (1, 2, 3, 4)
    assert [item.is_voter(node) for node in range(1, 6)] == [False, True, False, True, False]


def test_a_voter_counts_in_either_half() -> None:
    assert [JOINT.is_voter(node) for node in range(7)] == [
        False, True, True, True, True, False, False,
    ]  # fmt: skip


def test_a_node_that_leaves_the_voters_is_listed_without_learners_too() -> None:
    assert Membership((2,), (1, 2)).nodes == (1, 2)


def test_no_configuration_at_all_is_no_fault() -> None:
    """A node that waits for its first snapshot has none."""
    empty = Membership(())
    assert (empty.nodes, empty.halves, empty.fault()) == ((), ((),), None)


def test_equal_configurations_are_equal_values() -> None:
    """Ascending tuples leave one way only to write a configuration down."""
    assert Membership((1, 2), (), (3,)) == Membership((1, 2), learners=(3,))
    assert Membership((1, 2)) != Membership((1, 2), learners=(3,))
    assert Membership((1,), (1,)) != Membership((1,), (1,), auto_leave=True)


@pytest.mark.parametrize(
    ("item", "text"),
    [
        (Membership((2, 1)), "voters (2, 1) do not ascend"),
        (Membership((1, 1)), "voters (1, 1) do not ascend"),
        (Membership((1,), (3, 2)), "voters_outgoing (3, 2) do not ascend"),
        (Membership((1,), learners=(3, 3)), "learners (3, 3) do not ascend"),
        (Membership((1,), (2, 3), learners_next=(3, 2)), "learners_next (3, 2) do not ascend"),
        (Membership((1, 2, 3), witnesses=(3, 2)), "witnesses (3, 2) do not ascend"),
        (Membership((0, 1)), "the id of a node is out of range: (0, 1)"),
        (Membership((1,), learners=(0,)), "the id of a node is out of range: (0, 1)"),
        (Membership((NUMBER_MAX + 1,)), "the id of a node is out of range"),
        (Membership(tuple(range(1, 258))), "257 nodes are more than 256"),
        (
            Membership((1,), tuple(range(2, 130)), tuple(range(130, 258))),
            "257 nodes are more than 256",
        ),
        (Membership((1, 2), learners=(2,)), "a node is both voter and learner"),
        (Membership((1,), (2,), learners=(2,)), "a node is both voter and learner"),
        (
            Membership((1,), (1, 2), learners_next=(1,)),
            "learners_next are not voters of the outgoing half alone",
        ),
        (
            Membership((1,), (2,), learners_next=(3,)),
            "learners_next are not voters of the outgoing half alone",
        ),
        (
            Membership((1,), learners_next=(2,)),
            "learners_next are not voters of the outgoing half alone",
        ),
        (Membership((1,), witnesses=(2,)), "a witness is not a voter"),
        (Membership((1,), learners=(2,), witnesses=(2,)), "a witness is not a voter"),
        (Membership((1,), auto_leave=True), "auto_leave outside of a joint configuration"),
    ],
)
def test_an_impossible_configuration_says_what_is_wrong(item: Membership, text: str) -> None:
    fault = item.fault()
    assert fault is not None
    assert fault.startswith(text)


@pytest.mark.parametrize(
    "item",
    [
        Membership((1,)),
        Membership((NUMBER_MAX,)),
        Membership((1, NUMBER_MAX)),
        Membership(tuple(range(1, 257))),
        Membership((1,), (2,), witnesses=(2,)),
        Membership((1, 2), witnesses=(2,)),
        Membership((1,), (2, 3), learners_next=(2, 3)),
        Membership((1,), (1,), auto_leave=True),
    ],
)
def test_edges_of_what_is_possible(item: Membership) -> None:
    assert item.fault() is None
