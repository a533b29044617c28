"""Mutants of elections, terms and votes."""

from __future__ import annotations

from tests.mutants.mutant import Mutant, Script, Sim
from tests.mutants.patching import Change

ELECTIONS = "tests/core/test_known_bugs_elections.py::"
RIVALS = Sim(("partition", "reorder", "node crash"))
CRASHES = Sim(("sender crash", "slow disk", "partition"))

MUTANTS = (
    Mutant(
        "term-not-stored",
        (1,),
        "requests for votes leave before their term is durable",
        (
            Change(
                "rafter_core.raw_node:RawNode.ready",
                "self._waits_for_term and self._term_ready_number > self._stored_number",
                "False",
            ),
        ),
        CRASHES,
    ),
    Mutant(
        "own-vote-forgotten",
        (2,),
        "a candidate does not record the vote for itself",
        (
            Change(
                "rafter_core.raft:Raft.become_candidate",
                "self.vote = self.node_id",
                "pass",
            ),
        ),
        RIVALS,
    ),
    Mutant(
        "vote-erased",
        (3,),
        "stepping down within a term erases the vote cast in it",
        (
            Change(
                "rafter_core.raft:Raft.become_follower",
                "self._reset(term)",
                "self._reset(term)\n    self.vote = NO_NODE",
            ),
        ),
        RIVALS,
    ),
    Mutant(
        "term-lowered",
        (4,),
        "an old heartbeat lowers the term",
        (
            Change(
                "rafter_core.raft:Raft._admit",
                "self._answer_lower_term(message)\n        return False",
                "self._answer_lower_term(message)\n"
                "        if kind is not HEARTBEAT:\n"
                "            return False",
            ),
        ),
        RIVALS,
    ),
    Mutant(
        "old-votes-count",
        (5,),
        "votes of an earlier term are counted in a later one",
        (
            Change(
                "rafter_core.raft:Raft._admit",
                "self._answer_lower_term(message)\n        return False",
                "self._answer_lower_term(message)\n        return kind.name == 'VOTE_RESPONSE'",
            ),
        ),
        Script((ELECTIONS + "test_late_and_repeated_votes_do_not_count",)),
    ),
    Mutant(
        "no-vote-twice",
        (6,),
        "the same candidate is refused when it asks again",
        (
            Change(
                "rafter_core.election:handle_vote_request",
                "raft.vote == message.sender\n",
                "False\n",
            ),
        ),
        Script((ELECTIONS + "test_granting_a_vote_again_to_the_same_candidate_is_idempotent",)),
    ),
    Mutant(
        "pre-candidate-keeps-leader",
        (9,),
        "a pre-candidate takes the leader that it has lost for alive, and refuses its peers",
        (
            Change(
                "rafter_core.raft:Raft.become_pre_candidate",
                "self.leader = NO_NODE",
                "pass",
            ),
        ),
        Script((ELECTIONS + "test_a_pre_candidate_has_no_leader_any_more_and_supports_others",)),
    ),
    Mutant(
        "refusal-without-term",
        (8, 10),
        "who refuses a pre-vote does not say its own term",
        (
            Change(
                "rafter_core.election:handle_vote_request",
                "term=message.term if granted else raft.term",
                "term=message.term",
            ),
        ),
        Script((ELECTIONS + "test_a_refused_pre_vote_says_the_term_of_who_refuses",)),
    ),
    Mutant(
        "removed-node-unseats",
        (12,),
        "a vote is given although the leader is alive",
        (
            Change(
                "rafter_core.raft:Raft._admit",
                "message.context != CAMPAIGN_TRANSFER and self.guards_leader()",
                "False",
            ),
        ),
        Script((ELECTIONS + "test_a_removed_node_that_does_not_know_costs_no_leader",)),
    ),
    Mutant(
        "learner-campaigns",
        (13,),
        "a learner asks for votes",
        (
            Change(
                "rafter_core.raft:Raft.is_promotable",
                "membership.is_voter(self.node_id)",
                "self.node_id in membership.nodes",
            ),
        ),
        Script((ELECTIONS + "test_learners_never_campaign",)),
    ),
    Mutant(
        "unaware-learner-refuses",
        (14,),
        "a learner that does not know of its promotion refuses to vote",
        (
            Change(
                "rafter_core.election:handle_vote_request",
                "    granted = (\n        can_vote\n",
                "    granted = (\n        can_vote and raft.is_promotable()\n",
            ),
        ),
        Script((ELECTIONS + "test_a_learner_that_does_not_know_of_its_promotion_votes",)),
    ),
    Mutant(
        "old-log-wins",
        (15,),
        "a vote is given to a candidate whose log is behind",
        (
            Change(
                "rafter_core.log:RaftLog.is_up_to_date",
                "term > last_term or (term == last_term and index >= self.last_index)",
                "True",
            ),
        ),
        Sim(("partition", "one-way cut", "node crash")),
    ),
    Mutant(
        "transfer-hangs",
        (47,),
        "a transfer of leadership never ends, and meanwhile every write is refused",
        (
            Change(
                "rafter_core.election:end_leader_period",
                'transfer.abort(raft, "it did not take over in time")',
                "pass",
            ),
        ),
        Sim(("leader transfer", "drop")),
    ),
)
