"""Figures 7 and 8 of the paper: logs that differ in every way, and what may not be committed."""

from __future__ import annotations

import pytest

from rafter_core import Message, MessageKind
from tests.core.network import Host
from tests.core.support import Driven, of_kind
from tests.paper.support import PLAIN, Cluster, group, stored, terms_of

LEADER_LOG = [1, 1, 1, 4, 4, 5, 5, 6, 6, 6]
FOLLOWER_LOGS = {
    "a": [1, 1, 1, 4, 4, 5, 5, 6, 6],
    "b": [1, 1, 1, 4],
    "c": [1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 6],
    "d": [1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 7, 7],
    "e": [1, 1, 1, 4, 4, 4, 4],
    "f": [1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3],
}


def cluster_of_figure_7(name: str) -> Cluster:
    """Return the leader of the figure as node 1, the follower `name` as 2, and an empty node 3.

    Node 3 can give no log but its vote, so that node 1 wins in term 8.
    """
    logs = [LEADER_LOG, FOLLOWER_LOGS[name], []]
    hosts = [Host(node, group(3), terms=terms, **PLAIN) for node, terms in enumerate(logs, 1)]
    cluster = Cluster(*hosts)
    # Node 1 has seen term 6; nobody hears its first attempt, in term 7.
    cluster.isolate(1)
    cluster.campaign(1)
    cluster.heal()
    return cluster


@pytest.mark.parametrize("name", FOLLOWER_LOGS)
def test_the_leader_brings_any_log_in_line(name: str) -> None:
    """Figure 7 and section 5.3: whatever is missing or too much, it ends as the leader's log."""
    cluster = cluster_of_figure_7(name)
    cluster.campaign(1)
    assert (cluster.leaders(), cluster[1].node.term) == ([1], 8)
    for node in (1, 2, 3):
        assert terms_of(cluster[node]) == [*LEADER_LOG, 8]
        assert [entry.index for entry in cluster[node].applied] == list(range(1, 12))


@pytest.mark.parametrize(
    ("name", "rounds"), [("a", 1), ("b", 1), ("c", 0), ("d", 0), ("e", 1), ("f", 1)]
)
def test_one_refused_append_finds_where_the_logs_agree(name: str, rounds: int) -> None:
    """Figure 7 and section 5.3, the optimisation: no refused append for each entry that differs.

    (c) and (d) hold all of the leader's log, so they refuse nothing.
    """
    cluster = cluster_of_figure_7(name)
    cluster.forget()
    cluster.campaign(1)
    answers = [m for m in cluster.sent(MessageKind.APPEND_RESPONSE) if m.sender == 2]
    assert sum(m.reject for m in answers) == rounds
    assert not answers[-1].reject


@pytest.mark.parametrize(
    ("name", "is_granted"),
    [("a", True), ("b", True), ("c", False), ("d", False), ("e", True), ("f", True)],
)
def test_only_those_with_no_better_log_elect_the_leader_of_the_figure(
    name: str, is_granted: bool
) -> None:
    """Figure 7 and section 5.4.1: (c) is longer in the same last term, (d) has a later last term.

    (f) is longer too, but its last term is an old one.
    """
    follower = Driven(node_id=2, terms=FOLLOWER_LOGS[name], **PLAIN)
    answers = follower.step(MessageKind.VOTE, 1, term=8, index=10, log_term=6)
    assert [m.reject for m in answers] == [not is_granted]


def test_extra_entries_go_only_when_a_conflict_shows_them() -> None:
    """Figure 7 (d) and figure 2, AppendEntries RPC, receiver 3: an empty append cuts nothing."""
    follower = Driven(node_id=2, terms=FOLLOWER_LOGS["d"], **PLAIN)
    follower.step(MessageKind.APPEND, 1, term=8, index=10, log_term=6)
    assert [term for term, _, _ in stored(follower)] == FOLLOWER_LOGS["d"]


# ---- figure 8


def cluster_until_c(*, is_third_entry_lost: bool) -> Cluster:
    """Run figure 8 up to (c): the entry of term 2 is on a majority, its leader leads term 4.

    A new leader appends a no-op, which is here the entry that the figure shows. Appends carry one
    entry each, so that the old entry can arrive without the one of term 4.
    """
    hosts = [Host(node, group(5), terms=[1], message_bytes_max=1, **PLAIN) for node in range(1, 6)]
    cluster = Cluster(*hosts)
    # (a) S1 leads term 2 and replicates index 2 to S2 only.
    cluster.is_lost = lambda m: m.kind is MessageKind.APPEND and m.to != 2
    cluster.campaign(1)
    assert [terms_of(cluster[node]) for node in range(1, 6)] == [[1, 2], [1, 2], [1], [1], [1]]
    assert cluster[1].node.term == 2
    # (b) S1 crashes; S5 leads term 3 with S3 and S4, and takes another entry at index 2.
    cluster.crash(1)
    cluster.is_lost = lambda m: m.kind is MessageKind.APPEND
    cluster.campaign(5)
    assert (cluster[5].node.is_leader, cluster[5].node.term) == (True, 3)
    assert terms_of(cluster[5]) == [1, 3]
    # (c) S5 crashes; S1 restarts, leads term 4, and goes on replicating index 2. Nobody hears its
    # first attempt, in term 3.
    cluster.crash(5)
    cluster.restart(1)
    cluster.isolate(1)
    cluster.campaign(1)
    cluster.heal()

    def is_lost(message: Message) -> bool:
        is_next = any(entry.term == 4 for entry in message.entries)
        lacks_index_2 = len(cluster[message.to].log) == 1
        return message.to == 4 or (is_third_entry_lost and is_next and not lacks_index_2)

    cluster.is_lost = is_lost
    cluster.campaign(1)
    assert (cluster.leaders(), cluster[1].node.term) == ([1], 4)
    # The paper's leader begins with an empty append; so does ours here, to learn what S2 holds.
    cluster.send(Message(kind=MessageKind.APPEND, to=2, sender=1, term=4, index=2, log_term=2))
    return cluster


def test_an_old_entry_on_a_majority_is_not_committed() -> None:
    """Figure 8 (c), and section 5.4.2: three of five copies of a term-2 entry commit nothing."""
    cluster = cluster_until_c(is_third_entry_lost=True)
    assert [terms_of(cluster[node]) for node in (1, 2, 3)] == [[1, 2, 4], [1, 2], [1, 2]]
    progress = cluster[1].node.status().progress
    assert [progress[node].match for node in range(1, 6)] == [3, 2, 2, 0, 0]
    assert [cluster[node].node.commit for node in range(1, 6)] == [0, 0, 0, 0, 0]


def test_an_old_entry_on_a_majority_can_still_be_overwritten() -> None:
    """Figure 8 (d): S5 leads term 5 with S2, S3 and S4, and replaces the entry of term 2."""
    cluster = cluster_until_c(is_third_entry_lost=True)
    cluster.crash(1)
    cluster.heal()
    cluster.restart(5)
    # Term 4 has been voted in already, so the first attempt teaches S5 the term.
    cluster.campaign(5)
    assert not cluster[5].node.is_leader
    cluster.campaign(5)
    assert (cluster[5].node.is_leader, cluster[5].node.term) == (True, 5)
    cluster.restart(1)
    cluster.tick(5, 2)
    for node in range(1, 6):
        assert terms_of(cluster[node]) == [1, 3, 5]
        assert cluster[node].node.commit == 3
        assert [entry.term for entry in cluster[node].applied] == [1, 3, 5]


def test_an_entry_of_the_own_term_commits_the_old_one_for_good() -> None:
    """Figure 8 (e): with its term-4 entry on a majority S1 has committed all, and S5 cannot win."""
    cluster = cluster_until_c(is_third_entry_lost=False)
    assert [terms_of(cluster[node]) for node in (1, 2, 3)] == [[1, 2, 4]] * 3
    assert [cluster[node].node.commit for node in (1, 2, 3)] == [3, 3, 3]
    cluster.crash(1)
    cluster.heal()
    cluster.restart(5)
    for _ in range(4):
        cluster.campaign(5)
        assert cluster.leaders() == []
    # Only one that holds the entry can.
    cluster.campaign(3)
    assert cluster[3].node.is_leader
    assert terms_of(cluster[5])[:3] == [1, 2, 4]
    assert [entry.term for entry in cluster[5].applied][:3] == [1, 2, 4]


def test_a_run_of_old_entries_is_committed_in_one_step() -> None:
    """Figure 8 (e) and section 5.4.2: the rule looks at the entry counted, not at those before.

    A leader that stopped at the first old entry would never commit again.
    """
    driven = Driven(terms=[1, 2, 2, 3], **PLAIN)
    driven.lead()
    assert of_kind(driven.acknowledge(2, 4), MessageKind.APPEND) != []
    assert driven.node.commit == 0
    driven.acknowledge(2, 5)
    assert driven.node.commit == 5
    assert [entry.term for entry in driven.committed] == [1, 2, 2, 3, 4]
