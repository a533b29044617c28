"""How leader and follower find the point where their logs agree: one round for each term at most.

A refusal says where the follower's log may agree, skipping entries of too high a term; the leader
skips its own entries in the same way.
"""

from __future__ import annotations

import pytest

from rafter_core import HardState, Message, MessageKind
from tests.core.support import Driven, log_of, of_kind

APPEND = MessageKind.APPEND
APPEND_RESPONSE = MessageKind.APPEND_RESPONSE
LEADER_TERM = 9

# Terms of the leader's log and of the follower's; the hint (index, term) in the follower's refusal
# of the first probe; the index the leader probes next.
CASES = [
    # The example of the paper's figure 7, f: the follower led twice without committing.
    ([1, 1, 1, 4, 4, 5, 5, 6, 6, 6], [1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3], (10, 3), 3),
    # The leader has a long run of a higher term: it is skipped at once.
    ([1, 3, 3, 3, 5, 5, 5, 5, 5], [1, 1, 1, 1, 2, 2], (6, 2), 1),
    # The follower has a long run of a higher term than the leader's last: skipped by itself.
    ([1, 2, 2, 2, 2, 2, 2], [1, 3, 3, 3, 3, 3, 3], (1, 1), 1),
    # It is merely shorter.
    ([1, 1, 1, 1, 4, 4], [1, 1, 1, 1], (4, 1), 4),
    ([2, 2, 2, 2], [2], (1, 2), 1),
    # It is longer, and what it has in excess is older.
    ([1, 1, 1, 5], [1, 1, 1, 4, 4, 4], (4, 4), 3),
    # Empty: everything is to be sent.
    ([1, 1, 1], [], (0, 0), 0),
    # Nothing agrees.
    ([2, 2, 2, 2], [1, 1, 1], (3, 1), 0),
    ([1, 1, 1], [2, 2, 2], (0, 0), 0),
    # The terms alternate.
    ([1, 3, 5, 7], [1, 2, 4, 6], (4, 6), 3),
    ([1, 2, 3, 4, 5, 6], [1, 1, 1, 1, 1, 1, 1], (6, 1), 1),
]


@pytest.mark.parametrize(("leader_terms", "follower_terms", "hint", "next_probe"), CASES)
def test_a_refusal_skips_whole_terms_on_both_sides(
    leader_terms: list[int], follower_terms: list[int], hint: tuple[int, int], next_probe: int
) -> None:
    leader = Driven(terms=leader_terms, hard_state=HardState(LEADER_TERM - 1, 0, 0))
    follower = Driven(node_id=2, terms=follower_terms, hard_state=HardState(LEADER_TERM - 1, 0, 0))
    (probe,) = [m for m in leader.lead() if m.to == 2]
    assert (probe.term, probe.index, probe.log_term) == (
        LEADER_TERM,
        len(leader_terms),
        leader_terms[-1],
    )
    (refusal,) = deliver(follower, probe)
    assert refusal.reject
    assert refusal.index == len(leader_terms)
    assert (refusal.reject_hint, refusal.log_term) == hint
    (probe,) = of_kind(deliver(leader, refusal), APPEND)
    assert probe.index == next_probe
    for _ in range(4):
        (answer,) = deliver(follower, probe)
        if not answer.reject:
            break
        (probe,) = of_kind(deliver(leader, answer), APPEND)
    assert answer.index == len(leader_terms) + 1
    terms = [*leader_terms, LEADER_TERM]
    assert follower.storage.entries(1, len(terms) + 1, 1 << 30) == log_of(*terms)
    assert follower.node.last_index == len(terms)


@pytest.mark.parametrize(
    ("index", "log_term", "hint", "hint_term"),
    [
        # Beyond the end: from the last entry down to a term that is not higher.
        (9, 5, 5, 4),
        (9, 4, 5, 4),
        (9, 3, 3, 3),
        (9, 2, 1, 1),
        (9, 1, 1, 1),
        # Within, with another term.
        (5, 3, 3, 3),
        (4, 2, 1, 1),
        (3, 1, 1, 1),
        (3, 4, 3, 3),
        (2, 1, 1, 1),
        (1, 3, 1, 1),
    ],
)
def test_a_follower_hints_at_the_last_entry_that_may_agree(
    index: int, log_term: int, hint: int, hint_term: int
) -> None:
    follower = Driven(terms=[1, 3, 3, 4, 4], hard_state=HardState(5, 0, 0))
    (answer,) = follower.step(APPEND, 2, index=index, log_term=log_term)
    assert (answer.kind, answer.reject, answer.index) == (APPEND_RESPONSE, True, index)
    assert (answer.reject_hint, answer.log_term) == (hint, hint_term)


@pytest.mark.parametrize(
    ("hint", "hint_term", "next_probe"),
    [
        # A hint without a term is used as it is.
        (7, 0, 7),
        (3, 0, 3),
        # With a term, the leader goes to its last entry at or before it that has no higher one.
        (7, 6, 7),
        (7, 5, 6),
        (7, 4, 4),
        (7, 3, 4),
        (7, 2, 2),
        (7, 1, 2),
        (3, 2, 2),
        (3, 3, 3),
        # Never beyond what was refused.
        (8, 8, 7),
    ],
)
def test_a_leader_probes_at_its_last_entry_that_may_agree(
    hint: int, hint_term: int, next_probe: int
) -> None:
    leader = Driven(terms=[1, 1, 3, 3, 5, 5, 6, 6], hard_state=HardState(8, 0, 0))
    leader.lead()
    (probe,) = of_kind(
        leader.step(APPEND_RESPONSE, 2, index=8, reject=True, reject_hint=hint, log_term=hint_term),
        APPEND,
    )
    assert (probe.to, probe.index, leader.node.status().progress[2].next) == (
        2,
        next_probe,
        next_probe + 1,
    )


def test_in_probe_only_a_refusal_of_the_last_probe_counts() -> None:
    leader = Driven(terms=[1, 1, 1, 1])
    leader.lead()
    for index in (0, 3, 5):
        assert leader.step(APPEND_RESPONSE, 2, index=index, reject=True, reject_hint=0) == []
        assert leader.node.status().progress[2].next == 5
    assert len(leader.step(APPEND_RESPONSE, 2, index=4, reject=True, reject_hint=0)) == 1
    assert leader.node.status().progress[2].next == 1


def test_a_reordered_refusal_never_pushes_next_to_match_or_below() -> None:
    """etcd-io/raft pull 149: the refusal of an early probe arrives after later acknowledgements."""
    leader = Driven(terms=[1, 1, 1])
    leader.lead()
    (probe,) = of_kind(
        leader.step(APPEND_RESPONSE, 2, index=3, reject=True, reject_hint=1, log_term=1), APPEND
    )
    assert probe.index == 1
    leader.acknowledge(2, 4)
    leader.step(APPEND_RESPONSE, 2, index=3, reject=True, reject_hint=1, log_term=1)
    progress = leader.node.status().progress[2]
    assert (progress.match, progress.next) == (4, 5)
    leader.node.report_unreachable(2)
    # Probing now, with match 4: neither an old refusal nor its hint is believed.
    leader.step(APPEND_RESPONSE, 2, index=3, reject=True, reject_hint=1, log_term=1)
    leader.step(APPEND_RESPONSE, 2, index=4, reject=True, reject_hint=1, log_term=1)
    progress = leader.node.status().progress[2]
    assert (progress.match, progress.next) == (4, 5)


def deliver(driven: Driven, message: Message) -> list[Message]:
    driven.node.step(message)
    return driven.pump()
