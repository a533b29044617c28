"""Mutants of replication, commit and the log in memory."""

from __future__ import annotations

from tests.mutants.mutant import Mutant, Script, Sim
from tests.mutants.patching import Change
from tests.sim.plans import Plan

LOG = "tests/core/test_known_bugs_log.py::"
MEMBERSHIP = "tests/core/test_known_bugs_membership.py::"
MIXED = Sim(("partition", "reorder", "duplicate", "drop"))
LEADERS_FALL = Sim(("partition", "node crash", "leader transfer"))


def has_single_voters(plan: Plan) -> bool:
    """Take plans with groups of one voter, and several of them."""
    return plan.replication == 1


MUTANTS = (
    Mutant(
        "commits-old-terms",
        (15,),
        "entries of earlier terms are committed by counting copies (figure 8)",
        (
            Change(
                "rafter_core.replication:maybe_commit",
                " or index < raft.term_start_index",
                "",
            ),
        ),
        LEADERS_FALL,
    ),
    Mutant(
        "stops-at-old-terms",
        (16,),
        "a leader commits nothing behind an entry of an earlier term",
        (
            Change(
                "rafter_core.replication:maybe_commit",
                "index < raft.term_start_index",
                "raft.log.term(raft.log.committed + 1) != raft.term",
            ),
        ),
        LEADERS_FALL,
    ),
    Mutant(
        "late-append-cuts",
        (17,),
        "an append cuts the log behind it even where it agrees",
        (
            Change(
                "rafter_core.log:RaftLog._append_after", "if index < self.last_index:", "if False:"
            ),
        ),
        MIXED,
    ),
    Mutant(
        "commits-unverified",
        (18,),
        "a follower takes over the leader's commit index for entries that it has not verified",
        (
            Change(
                "rafter_core.log:RaftLog.maybe_append",
                "min(commit, last_new)",
                "min(commit, self.last_index)",
            ),
        ),
        Script((LOG + "test_a_follower_commits_what_the_message_verified_and_no_more",)),
    ),
    Mutant(
        "heartbeat-commits-unverified",
        (18,),
        "a heartbeat commits what the follower may not hold",
        (
            Change(
                "rafter_core.sending:broadcast_heartbeat",
                "min(progress.match, committed)",
                "committed",
            ),
        ),
        MIXED,
    ),
    Mutant(
        "entries-left-out",
        (19,),
        "a message that joins stored entries to those in memory leaves some out between them",
        (
            Change(
                "rafter_core.log:RaftLog.slice",
                "if high <= offset or len(stored) < offset - low:",
                "if high <= offset:",
            ),
        ),
        MIXED,
    ),
    Mutant(
        "late-completion",
        (20,),
        "what was written in an earlier term counts as durable in a later one (A-B-A)",
        (
            Change(
                "rafter_core.raw_node:RawNode._stored",
                "ready._term == raft.term",
                "True",
            ),
        ),
        Script((LOG + "test_a_late_completion_of_an_older_term_makes_nothing_durable",)),
    ),
    Mutant(
        "cache-not-cut",
        (22,),
        "the cache of entries keeps what the log has cut",
        (
            Change(
                "rafter_storage.recent:RecentEntries.append",
                "self._truncate(first_index)",
                "pass",
            ),
        ),
        MIXED,
    ),
    Mutant(
        "another-entry-acknowledged",
        (23,),
        "a write is acknowledged when any entry is applied at its index",
        (
            Change(
                "rafterd.replica:Replica._lose_leadership",
                "lost = self._proposals\n    self._proposals = deque()",
                "lost = ()",
            ),
            Change(
                "rafterd.replica:Replica._apply",
                "index != entry.index or term != entry.term",
                "index != entry.index",
            ),
        ),
        LEADERS_FALL,
    ),
    Mutant(
        "single-voter-hasty",
        (24,),
        "a group of one voter acknowledges a write before it has synced it",
        (
            Change(
                "rafter_core.replication:append_entries",
                "    return last_index",
                "    if len(raft.tracker.progress) == 1:\n"
                "        raft.tracker.own.acknowledge(last_index)\n"
                "        maybe_commit(raft)\n"
                "    return last_index",
            ),
            Change(
                "rafter_core.log:RaftLog._appliable",
                "return min(self.committed, self.unstable.offset - 1)",
                "return self.committed",
            ),
        ),
        Sim(("power loss", "slow disk"), has_single_voters),
    ),
    Mutant(
        "next-below-match",
        (25,),
        "a late refusal moves the next index of a follower to what it has acknowledged, or below",
        (
            Change(
                "rafter_core.progress:Progress.reject",
                "if rejected <= self.match:\n            return False\n"
                "        self.next = self.match + 1",
                "self.next = min(rejected, hint + 1)",
            ),
        ),
        MIXED,
    ),
    Mutant(
        "unapplied-change",
        (36,),
        "a node campaigns although a committed change of the membership is not applied yet",
        (
            Change(
                "rafter_core.election:_may_campaign",
                "if _has_unapplied_change(raft):",
                "if False:",
            ),
        ),
        Script((MEMBERSHIP + "test_a_node_with_an_unapplied_committed_change_does_not_campaign",)),
    ),
)
