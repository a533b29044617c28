"""The algebra of memberships: tables of each step, and laws over random sequences."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rafter_core import Change, ChangeKind, ConfChange, ConfChangeError, Membership, Transition
from rafter_core.changer import ChangeResult, change, enter_joint, leave_joint, simple
from rafter_core.membership import MEMBERS_MAX
from rafter_core.tracker import ProgressTracker
from tests.replay.changes import parse_changes

ONE = Membership((1,))
TWO = Membership((1, 2))
THREE = Membership((1, 2, 3))
LEARNER = Membership((1,), learners=(2,))
JOINT = Membership((1, 2), (1, 3), learners_next=(3,), auto_leave=True)
WITNESS = Membership((1, 2, 3), witnesses=(3,))


# ---- the simple way ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "text", "after", "fresh"),
    [
        # One voter more or less.
        (ONE, "v2", TWO, {2}),
        (THREE, "r2", Membership((1, 3)), set()),
        (THREE, "r1", Membership((2, 3)), set()),
        (LEARNER, "v2", TWO, set()),
        (TWO, "l2", LEARNER, set()),
        # Learners come and go in any number.
        (ONE, "l2", LEARNER, {2}),
        (ONE, "l3 l2", Membership((1,), learners=(2, 3)), {2, 3}),
        (LEARNER, "r2", ONE, set()),
        (LEARNER, "r2 l3", Membership((1,), learners=(3,)), {3}),
        (LEARNER, "l2", LEARNER, set()),
        # What changes nothing.
        (TWO, "", TWO, set()),
        (TWO, "v2", TWO, set()),
        (TWO, "u2", TWO, set()),
        (TWO, "u7", TWO, set()),
        (TWO, "r7", TWO, set()),
        (TWO, "v0 l0 r0 u0 w0", TWO, set()),
        # The last one counts.
        (ONE, "v2 l2", LEARNER, {2}),
        (ONE, "l2 v2", TWO, {2}),
        (ONE, "v2 r2", ONE, set()),
        (TWO, "r2 v2", TWO, {2}),
        (ONE, "v2 v3 r3", TWO, {2}),
        (LEARNER, "r2 v2", TWO, {2}),
    ],
)
def test_simple_changes(before: Membership, text: str, after: Membership, fresh: set[int]) -> None:
    assert simple(before, parse_changes(text)) == ChangeResult(after, frozenset(fresh))


@pytest.mark.parametrize(
    ("before", "text", "expected"),
    [
        (JOINT, "v4", "can't apply simple config change in joint config"),
        (JOINT, "", "can't apply simple config change in joint config"),
        (ONE, "r1", "removed all voters"),
        (ONE, "l1", "removed all voters"),
        (TWO, "r1 r2", "removed all voters"),
        (Membership(()), "l1", "removed all voters"),
        (ONE, "v2 v3", "more than one voter changed without entering joint config"),
        (THREE, "r2 r3", "more than one voter changed without entering joint config"),
        (TWO, "r2 v3", "more than one voter changed without entering joint config"),
        (TWO, "l2 v3", "more than one voter changed without entering joint config"),
    ],
)
def test_impossible_simple_changes(before: Membership, text: str, expected: str) -> None:
    with pytest.raises(ConfChangeError) as caught:
        simple(before, parse_changes(text))
    assert str(caught.value) == expected


# ---- through a joint configuration -------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "text", "joint", "fresh", "after"),
    [
        (ONE, "", Membership((1,), (1,)), set(), ONE),
        (ONE, "v2", Membership((1, 2), (1,)), {2}, TWO),
        (
            THREE,
            "v4 r3 l2",
            Membership((1, 4), (1, 2, 3), learners_next=(2,)),
            {4},
            Membership((1, 4), learners=(2,)),
        ),
        (TWO, "r1", Membership((2,), (1, 2)), set(), Membership((2,))),
        # A learner is promoted at once; a voter is demoted when the joint one is left.
        (LEARNER, "v2", Membership((1, 2), (1,)), set(), TWO),
        (TWO, "l2", Membership((1,), (1, 2), learners_next=(2,)), set(), LEARNER),
        (LEARNER, "r2", Membership((1,), (1,)), set(), ONE),
        (ONE, "l2", Membership((1,), (1,), (2,)), {2}, LEARNER),
        # A node of the outgoing half stays known, whatever is decided about it in between.
        (TWO, "r2 v2", Membership((1, 2), (1, 2)), set(), TWO),
        (TWO, "l2 v2", Membership((1, 2), (1, 2)), set(), TWO),
        (TWO, "l2 r2", Membership((1,), (1, 2)), set(), ONE),
        (TWO, "r2 l2", Membership((1,), (1, 2), learners_next=(2,)), set(), LEARNER),
        (ONE, "v2 r2", Membership((1,), (1,)), set(), ONE),
        (ONE, "v2 l2", Membership((1,), (1,), (2,)), {2}, LEARNER),
        # All voters at once.
        (
            THREE,
            "r1 r2 r3 v4 v5 v6",
            Membership((4, 5, 6), (1, 2, 3)),
            {4, 5, 6},
            Membership((4, 5, 6)),
        ),
    ],
)
@pytest.mark.parametrize("auto_leave", [False, True])
def test_joint_changes(
    before: Membership,
    text: str,
    joint: Membership,
    fresh: set[int],
    after: Membership,
    auto_leave: bool,
) -> None:
    result = enter_joint(before, auto_leave, parse_changes(text))
    assert result == ChangeResult(joint._replace(auto_leave=auto_leave), frozenset(fresh))
    assert leave_joint(result.membership) == ChangeResult(after, frozenset())


@pytest.mark.parametrize(
    ("before", "text", "expected"),
    [
        (JOINT, "v4", "config is already joint"),
        (Membership(()), "v1", "can't make a zero-voter config joint"),
        (TWO, "r1 r2", "removed all voters"),
        (TWO, "l1 l2", "removed all voters"),
    ],
)
def test_impossible_joint_changes(before: Membership, text: str, expected: str) -> None:
    with pytest.raises(ConfChangeError) as caught:
        enter_joint(before, False, parse_changes(text))
    assert str(caught.value) == expected


def test_only_a_joint_configuration_is_left() -> None:
    for plain in (ONE, LEARNER, Membership(())):
        with pytest.raises(ConfChangeError, match=r"^can't leave a non-joint config$"):
            leave_joint(plain)


def test_leaving_keeps_learners_that_were_there_before() -> None:
    joint = Membership((1,), (1, 3, 4), (2, 5), (3, 4), True)
    assert leave_joint(joint) == (Membership((1,), learners=(2, 3, 4, 5)), frozenset())


@pytest.mark.parametrize(
    ("before", "proposal", "after"),
    [
        (ONE, ConfChange(parse_changes("v2")), TWO),
        (ONE, ConfChange(parse_changes("v2"), is_v1=True), TWO),
        (ONE, ConfChange(parse_changes("v2 v3")), Membership((1, 2, 3), (1,), auto_leave=True)),
        (
            ONE,
            ConfChange(parse_changes("v2"), Transition.JOINT_IMPLICIT),
            Membership((1, 2), (1,), auto_leave=True),
        ),
        (ONE, ConfChange(parse_changes("v2"), Transition.JOINT_EXPLICIT), Membership((1, 2), (1,))),
        (JOINT, ConfChange(), Membership((1, 2), learners=(3,))),
        (JOINT, ConfChange(context=b"x"), Membership((1, 2), learners=(3,))),
    ],
)
def test_a_proposal_takes_the_way_it_asks_for(
    before: Membership, proposal: ConfChange, after: Membership
) -> None:
    assert change(before, proposal).membership == after


# ---- witnesses ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "text", "after", "fresh"),
    [
        (TWO, "w3", WITNESS, {3}),
        (WITNESS, "r3", TWO, set()),
        # A node that is known already cannot become one, nor a witness something else.
        (THREE, "w3", THREE, set()),
        (LEARNER, "w2", LEARNER, set()),
        (WITNESS, "w3", WITNESS, set()),
        (WITNESS, "v3", WITNESS, set()),
        (WITNESS, "l3", WITNESS, set()),
        (WITNESS, "u3", WITNESS, set()),
        (WITNESS, "r2", Membership((1, 3), witnesses=(3,)), set()),
    ],
)
def test_witnesses_are_voters_that_stay_what_they_are(
    before: Membership, text: str, after: Membership, fresh: set[int]
) -> None:
    assert simple(before, parse_changes(text)) == ChangeResult(after, frozenset(fresh))


@pytest.mark.parametrize(
    ("text", "joint", "after"),
    [
        # Removed: a witness as long as it votes in the outgoing half.
        ("r3", Membership((1, 2), (1, 2, 3), witnesses=(3,)), TWO),
        ("r3 v3", Membership((1, 2), (1, 2, 3), witnesses=(3,)), TWO),
        ("r3 w3", Membership((1, 2), (1, 2, 3), witnesses=(3,)), TWO),
        ("r3 l3", Membership((1, 2), (1, 2, 3), witnesses=(3,)), TWO),
        (
            "r3 w4",
            Membership((1, 2, 4), (1, 2, 3), witnesses=(3, 4)),
            Membership((1, 2, 4), witnesses=(4,)),
        ),
        ("w4 r4", Membership((1, 2, 3), (1, 2, 3), witnesses=(3,)), WITNESS),
    ],
)
def test_witnesses_leave_with_the_half_they_vote_in(
    text: str, joint: Membership, after: Membership
) -> None:
    result = enter_joint(WITNESS, False, parse_changes(text))
    assert result.membership == joint
    assert leave_joint(joint).membership == after


@pytest.mark.parametrize("text", ["r1 r2", "l1 l2", "r1 l2", "r1 r2 w4"])
def test_some_voter_must_store_payloads(text: str) -> None:
    with pytest.raises(ConfChangeError, match=r"^no voter is left that stores payloads$"):
        enter_joint(WITNESS, False, parse_changes(text))


@pytest.mark.parametrize("text", ["r1", "l1"])
def test_the_last_voter_that_stores_payloads_stays(text: str) -> None:
    with pytest.raises(ConfChangeError, match=r"^no voter is left that stores payloads$"):
        simple(Membership((1, 2), witnesses=(2,)), parse_changes(text))


def test_a_first_voter_cannot_be_a_witness() -> None:
    with pytest.raises(ConfChangeError, match=r"^no voter is left that stores payloads$"):
        simple(Membership(()), parse_changes("w1"))


@pytest.mark.parametrize(
    ("before", "text"),
    [
        (Membership((1,), learners=tuple(range(2, 257))), "l257"),
        (Membership(tuple(range(1, 257))), "v257"),
        (Membership((1,), learners=tuple(range(2, 257))), "v257"),
    ],
)
def test_the_number_of_nodes_is_bounded(before: Membership, text: str) -> None:
    for way in (simple, lambda item, changes: enter_joint(item, False, changes)):
        with pytest.raises(ConfChangeError, match=r"^more than 256 nodes$"):
            way(before, parse_changes(text))
        assert way(before, parse_changes("r256")).membership.fault() is None
        assert way(before, parse_changes("u2")).membership.nodes == before.nodes


def test_nodes_of_the_outgoing_half_count_against_the_bound() -> None:
    before = Membership(tuple(range(1, 257)))
    with pytest.raises(ConfChangeError, match=r"^more than 256 nodes$"):
        enter_joint(before, False, parse_changes("r256 v257"))


# ---- laws --------------------------------------------------------------------------------------

_KINDS_OF_ETCD = (
    ChangeKind.ADD_VOTER,
    ChangeKind.REMOVE_NODE,
    ChangeKind.UPDATE_NODE,
    ChangeKind.ADD_LEARNER,
)
changes_beside_1 = st.lists(
    st.builds(Change, st.sampled_from(_KINDS_OF_ETCD), st.integers(2, 6)), max_size=10
)
any_changes = st.lists(
    st.builds(Change, st.sampled_from(ChangeKind), st.integers(0, 5)), max_size=8
)


def one_by_one(membership: Membership, items: list[Change]) -> Membership:
    for item in items:
        membership = simple(membership, [item]).membership
    return membership


@given(changes_beside_1, changes_beside_1, st.booleans())
def test_a_joint_change_leads_where_the_same_simple_changes_lead(
    setup: list[Change], items: list[Change], auto_leave: bool
) -> None:
    """Voter 1 is never touched, so that no step removes all of them."""
    start = one_by_one(ONE, setup)
    joint = enter_joint(start, auto_leave, items).membership
    assert joint.voters_outgoing == start.voters
    assert leave_joint(joint).membership == one_by_one(start, items)


@given(st.lists(st.tuples(st.sampled_from("sejl"), any_changes), max_size=12))
def test_every_reachable_configuration_is_sound(steps: list[tuple[str, list[Change]]]) -> None:
    membership = ONE
    for way, items in steps:
        try:
            if way == "l":
                result = leave_joint(membership)
            elif way == "s":
                result = simple(membership, items[:1])
            else:
                result = enter_joint(membership, way == "e", items)
        except ConfChangeError:
            continue
        before, membership = membership, result.membership
        assert membership.fault() is None
        assert set(membership.voters) - set(membership.witnesses)
        assert result.fresh <= set(membership.nodes)
        # Known nodes keep their progress, unless they were removed and added again.
        removed = {node for kind, node in items if kind is ChangeKind.REMOVE_NODE}
        assert result.fresh & set(before.nodes) <= removed
        assert set(membership.nodes) - set(before.nodes) <= result.fresh
        # Whoever was a witness has holes in its log for as long as it is a member.
        remaining = set(membership.nodes) & set(before.witnesses)
        assert remaining <= set(membership.witnesses)


@st.composite
def memberships(draw: st.DrawFn) -> Membership:
    """Draw any sound configuration."""
    nodes = range(1, 8)
    voters = draw(st.sets(st.sampled_from(nodes), min_size=1))
    outgoing = draw(st.sets(st.sampled_from(nodes)))
    others = sorted(set(nodes) - voters - outgoing)
    learners = draw(st.sets(st.sampled_from(others))) if others else set()
    leaving = sorted(outgoing - voters)
    learners_next = draw(st.sets(st.sampled_from(leaving))) if leaving else set()
    witnesses = draw(st.sets(st.sampled_from(sorted(voters | outgoing))))
    return Membership(
        tuple(sorted(voters)),
        tuple(sorted(outgoing)),
        tuple(sorted(learners)),
        tuple(sorted(learners_next)),
        bool(outgoing) and draw(st.booleans()),
        tuple(sorted(witnesses)),
    )


@given(memberships(), st.integers(0, 20))
def test_any_configuration_is_restored_as_it_was(membership: Membership, last_index: int) -> None:
    tracker = ProgressTracker(1, ONE, 10, 1000)
    tracker.restore(membership, last_index)
    assert tracker.membership == membership
    assert tuple(tracker.progress) == membership.nodes
    for progress in tracker.progress.values():
        assert (progress.match, progress.next) == (0, max(last_index, 1))
        assert progress.recent_active


@given(memberships())
def test_any_joint_configuration_can_be_left(membership: Membership) -> None:
    if not membership.is_joint:
        return
    after, fresh = leave_joint(membership)
    assert after.voters == membership.voters
    assert set(after.learners) == {*membership.learners, *membership.learners_next}
    assert set(after.witnesses) == set(membership.witnesses) & set(membership.voters)
    assert (after.voters_outgoing, after.learners_next, after.auto_leave) == ((), (), False)
    assert not fresh


def test_a_membership_has_room_for_so_many_nodes_and_no_more() -> None:
    membership = Membership((1,))
    learners = [Change(ChangeKind.ADD_LEARNER, node) for node in range(2, MEMBERS_MAX + 1)]
    assert len(simple(membership, learners).membership.nodes) == MEMBERS_MAX
    learners.append(Change(ChangeKind.ADD_LEARNER, MEMBERS_MAX + 1))
    with pytest.raises(ConfChangeError, match=f"more than {MEMBERS_MAX} nodes"):
        simple(membership, learners)
