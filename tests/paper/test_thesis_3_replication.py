"""Chapter 3 of the thesis, the rest: 3.5 and 3.6 replication and safety, 3.7 and 3.8 crashes."""

from __future__ import annotations

import pytest

from rafter_core import HardState, Membership, Message, MessageKind, Role
from tests.core.network import Host
from tests.core.support import THREE, Driven, entry, of_kind
from tests.paper.support import PLAIN, Cluster, group, identities, terms_of

APPEND = MessageKind.APPEND


# ---- log replication, 3.5


@pytest.mark.parametrize("settings", [PLAIN, {}], ids=["plain", "default"])
def test_a_command_reaches_every_log_and_every_machine(settings: dict[str, bool]) -> None:
    """Thesis 3.5: appended by the leader, replicated, committed, applied everywhere."""
    cluster = Cluster(count=3, **settings)
    cluster.campaign(1)
    for payload in (b"a", b"b"):
        cluster.propose(1, payload)
    for host in cluster.hosts.values():
        assert host.log == [(1, 1, b""), (1, 2, b"a"), (1, 3, b"b")]
        assert host.payloads == [b"a", b"b"]
        assert (host.node.commit, host.node.applied) == (3, 3)


def test_a_slow_minority_does_not_hold_a_command_up() -> None:
    """Thesis 3.5 and 3.9: one round to a majority is enough."""
    cluster = Cluster(count=5, **PLAIN)
    cluster.campaign(1)
    cluster.crash(4, 5)
    cluster.propose(1, b"x")
    assert [cluster[node].payloads for node in (1, 2, 3)] == [[b"x"]] * 3
    cluster.crash(3)
    cluster.propose(1, b"y")
    assert cluster[1].node.commit == 2


def test_a_late_follower_learns_what_is_committed() -> None:
    """Thesis 3.5: the commit index goes with later messages, so nothing special is sent."""
    cluster = Cluster(count=3, **PLAIN)
    cluster.campaign(1)
    cluster.isolate(3)
    for payload in (b"a", b"b", b"c"):
        cluster.propose(1, payload)
    assert cluster[3].node.commit == 1
    cluster.heal()
    cluster.tick(1, 2)
    assert cluster[3].payloads == [b"a", b"b", b"c"]


def test_a_leader_overwrites_what_followers_have_instead() -> None:
    """Thesis 3.5: uncommitted entries of other leaders go, even where they are more."""
    logs = {1: [1, 3], 2: [1, 2, 2, 2], 3: [1]}
    cluster = Cluster(*[Host(node, THREE, terms=terms, **PLAIN) for node, terms in logs.items()])
    cluster.campaign(1)
    assert cluster.leaders() == [1]
    assert [terms_of(cluster[node]) for node in (1, 2, 3)] == [[1, 3, 4]] * 3


def test_a_leader_never_changes_its_own_log() -> None:
    """Thesis 3.5: refusals only make it send more; its own entries stay as they are."""
    driven = Driven(terms=[1, 1, 2], **PLAIN)
    driven.lead()
    before = driven.storage.entries(1, 5, 1 << 20)
    for hint in (2, 1, 0):
        driven.step(MessageKind.APPEND_RESPONSE, 2, index=hint + 1, reject=True, reject_hint=hint)
    assert driven.storage.entries(1, driven.storage.last_index() + 1, 1 << 20) == before
    assert driven.node.last_index == 4


# ---- committing entries of earlier terms, 3.6.2


def test_a_new_leader_cannot_commit_what_it_inherited_by_counting_it() -> None:
    """Thesis 3.6.2: an inherited entry waits for one of the leader's own term."""
    cluster = Cluster(count=5, **PLAIN)
    cluster.campaign(1)
    cluster.crash(3, 4, 5)
    cluster.propose(1, b"a")
    assert cluster[1].node.commit == 1
    cluster.crash(1)
    cluster.restart(3, 4, 5)
    # Only entries of term 1 arrive anywhere.
    cluster.lose(APPEND)
    cluster.campaign(2)
    assert (cluster.leaders(), terms_of(cluster[2])) == ([2], [1, 1, 2])
    for follower in (3, 4, 5):
        cluster[2].node.step(
            Message(kind=MessageKind.APPEND_RESPONSE, to=2, sender=follower, term=2, index=2)
        )
        cluster.run()
    assert cluster[2].node.commit == 1


def test_the_no_op_of_a_new_leader_commits_what_it_inherited() -> None:
    """Thesis 3.6.2 and 6.4: no command has to come before inherited entries are committed."""
    cluster = Cluster(count=5, **PLAIN)
    cluster.campaign(1)
    cluster.crash(3, 4, 5)
    cluster.propose(1, b"a")
    cluster.crash(1)
    cluster.restart(3, 4, 5)
    cluster.campaign(2)
    assert [terms_of(cluster[node]) for node in (2, 3, 4, 5)] == [[1, 1, 2]] * 4
    assert [cluster[node].node.commit for node in (2, 3, 4, 5)] == [3] * 4
    assert cluster[5].payloads == [b"a"]


# ---- follower and candidate crashes, 3.7


def test_a_crashed_follower_catches_up_after_its_restart() -> None:
    """Thesis 3.7: the leader goes on trying, so its messages succeed once the follower is back."""
    cluster = Cluster(count=3, **PLAIN)
    cluster.campaign(1)
    cluster.propose(1, b"a")
    cluster.crash(3)
    cluster.propose(1, b"b")
    cluster.propose(1, b"c")
    cluster.restart(3)
    assert cluster[3].payloads == [b"a"]
    cluster.tick(1, 2)
    assert cluster[3].log == cluster[1].log
    assert cluster[3].payloads == [b"a", b"b", b"c"]


def test_a_follower_that_crashed_before_it_answered_is_asked_again() -> None:
    """Thesis 3.7: it stored the entries, the answer was lost; the repetition changes nothing."""
    cluster = Cluster(count=3, **PLAIN)
    cluster.campaign(1)
    cluster.crash(3)
    cluster.lose(MessageKind.APPEND_RESPONSE)
    cluster.propose(1, b"x")
    cluster.heal()
    stored = list(cluster[2].log)
    assert stored[-1] == (1, 2, b"x")
    assert cluster[1].node.commit == 1
    cluster.crash(2)
    cluster.restart(2)
    cluster.tick(1, 2)
    assert cluster[2].log == stored
    assert cluster[1].node.commit == 2
    assert cluster[2].payloads == [b"x"]


def test_a_candidate_that_crashes_is_a_follower_afterwards() -> None:
    """Thesis 3.7: the election is forgotten, its term and its vote for itself are not."""
    host = Host(1, THREE, **PLAIN)
    host.node.campaign()
    host.pump()
    host.restart()
    assert (host.node.role, host.node.term, host.node.vote) == (Role.FOLLOWER, 1, 1)
    host.node.step(Message(kind=MessageKind.VOTE_RESPONSE, to=1, sender=2, term=1))
    assert host.node.role is Role.FOLLOWER


def test_a_lost_request_for_votes_is_repeated_in_the_next_term() -> None:
    """Thesis 3.7: a crashed voter answers nothing; the others decide, or the next election."""
    cluster = Cluster(count=3, **PLAIN)
    cluster.crash(2, 3)
    cluster.campaign(1)
    assert cluster[1].node.role is Role.CANDIDATE
    cluster.restart(3)
    cluster.campaign(1)
    assert (cluster.leaders(), cluster[1].node.term) == ([1], 2)


# ---- persisted state and restarts, 3.8


def test_a_leader_that_restarts_is_a_follower_of_nobody() -> None:
    """Thesis 3.8: leadership is not persisted; term, vote and log are."""
    cluster = Cluster(count=3, **PLAIN)
    cluster.campaign(1)
    cluster.propose(1, b"x")
    log = list(cluster[1].log)
    cluster.crash(1)
    cluster.restart(1)
    node = cluster[1].node
    assert (node.role, node.leader, node.term, node.vote) == (Role.FOLLOWER, 0, 1, 1)
    assert cluster[1].log == log


def test_a_group_that_restarts_as_a_whole_keeps_what_it_committed() -> None:
    """Thesis 3.8: a committed entry is on the disks of a majority, whoever leads afterwards."""
    cluster = Cluster(count=3, **PLAIN)
    cluster.campaign(1)
    cluster.isolate(3)
    cluster.propose(1, b"x")
    cluster.crash(1, 2, 3)
    cluster.heal()
    cluster.restart(1, 2, 3)
    cluster.campaign(3)
    assert cluster.leaders() == []
    cluster.campaign(2)
    assert cluster.leaders() == [2]
    assert [host.payloads for host in cluster.hosts.values()] == [[b"x"]] * 3


def test_a_machine_in_memory_is_rebuilt_from_the_log() -> None:
    """Thesis 3.8: with an applied index of 0 everything committed is handed out again, in order."""
    host = Host(1, group(1), **PLAIN)
    host.node.campaign()
    host.pump()
    host.node.propose_many([b"a", b"b"])
    host.pump()
    host.applied.clear()
    host.restart()
    host.pump()
    assert identities(host.applied) == [(1, 1), (1, 2), (1, 3)]
    assert host.payloads == [b"a", b"b"]


def test_a_durable_machine_is_not_given_an_entry_twice() -> None:
    """Thesis 3.8: a machine that is durable itself says where it is, and gets what follows."""
    host = Host(1, group(1), **PLAIN)
    host.node.campaign()
    host.pump()
    host.node.propose(b"a")
    host.pump()
    host.restart()
    assert (host.node.applied, host.node.commit) == (2, 2)
    host.node.campaign()
    host.pump()
    assert identities(host.applied) == [(1, 1), (1, 2), (2, 3)]


def test_a_machine_ahead_of_the_stored_commit_index_is_believed() -> None:
    """Thesis 3.8: the commit index may be lost; what was applied was committed."""
    host = Host(1, THREE, terms=[1, 1, 1], hard_state=HardState(1, 0, 0), **PLAIN)
    host.applied = [entry(1, 1), entry(1, 2)]
    host.restart()
    assert (host.node.applied, host.node.commit) == (2, 2)


def test_entries_that_were_never_acknowledged_may_be_gone_after_a_crash() -> None:
    """Thesis 3.8: what was taken but not stored was promised to nobody, so it may vanish."""
    host = Host(1, THREE, **PLAIN)
    append = Message(kind=APPEND, to=1, sender=2, term=1, entries=[entry(1, 1, b"x")])
    host.node.step(append)
    ready = host.node.ready()
    assert ready.messages == []
    host.restart()
    assert (host.node.term, host.node.last_index) == (0, 0)
    host.node.step(append)
    assert [(m.index, m.reject) for m in host.pump()] == [(1, False)]


def test_no_second_vote_after_a_crash_between_vote_and_answer() -> None:
    """Thesis 3.8: the vote that was stored binds, although nobody ever heard of it."""
    host = Host(1, THREE, **PLAIN)
    host.node.step(Message(kind=MessageKind.VOTE, to=1, sender=2, term=1))
    host.storage.store(host.node.ready())
    host.restart()
    host.node.step(Message(kind=MessageKind.VOTE, to=1, sender=3, term=1))
    assert [(m.to, m.reject) for m in host.pump()] == [(3, True)]


def test_the_configuration_is_known_after_a_restart_without_any_entry() -> None:
    """Thesis 3.8 and 4.1: it stands in the snapshot, here the founding one, and in the log."""
    host = Host(1, Membership((1, 2), learners=(3,)), **PLAIN)
    host.restart()
    assert host.node.membership == Membership((1, 2), learners=(3,))
    host.node.campaign()
    assert [m.to for m in of_kind(host.pump(), MessageKind.VOTE)] == [2]
