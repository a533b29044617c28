"""Mutants of reads, of sessions, and of the routing of commands."""

from __future__ import annotations

from tests.mutants.mutant import Mutant, Script, Sim
from tests.mutants.patching import Change

READS = "tests/core/test_known_bugs_reads.py::"
ROUTER = "tests/daemon/test_router.py::"
THESIS = "tests/paper/test_thesis_6_reads.py::"
REPEATERS = Sim(("reset", "shard crash"))
DEPOSED = Sim(("partition", "pause"))

MUTANTS = (
    Mutant(
        "read-before-first-commit",
        (39,),
        "a new leader serves reads before it has committed in its term",
        (
            Change(
                "rafter_core.reads:_start",
                "if raft.log.committed < raft.term_start_index:",
                "if False:",
            ),
        ),
        DEPOSED,
    ),
    Mutant(
        "read-of-another-index",
        (40,),
        "a read is answered with the index that is applied, not with the one that is committed",
        (
            Change(
                "rafter_core.reads:_enqueue",
                "raft.log.committed",
                "raft.log.applied",
            ),
        ),
        Script((THESIS + "test_a_read_is_confirmed_before_its_index_is_applied",)),
    ),
    Mutant(
        "read-unconfirmed",
        (41,),
        "a read is served before a quorum has confirmed the leader",
        (
            Change(
                "rafter_core.reads:_count_confirmations",
                "raft.tracker.confirmed_read()",
                "queue.counter",
            ),
        ),
        Script((READS + "test_no_read_is_answered_before_a_quorum_confirmed_it",)),
    ),
    Mutant(
        "read-number-reused",
        (42,),
        "reads use the same number again, so that an old echo confirms a new read",
        (
            Change(
                "rafter_core.reads:_draw_counter",
                "raft.reads.counter += 1",
                "raft.reads.counter = 1",
            ),
        ),
        DEPOSED,
    ),
    Mutant(
        "lease-too-long",
        (43,),
        "a lease lasts longer than the patience of the followers",
        (
            Change(
                "rafter_core.reads:_start",
                "raft.config.election_timeout_ticks * 4 // 5",
                "raft.config.election_timeout_ticks * 3",
            ),
        ),
        Script((READS + "test_a_lease_is_four_fifths_of_an_election_timeout_from_the_sending_on",)),
    ),
    Mutant(
        "sessions-not-in-snapshot",
        (45,),
        "snapshots are without the sessions, so that a repeated write runs twice",
        (
            Change(
                "rafter_kv.snapshots:PreparedSnapshot.__init__",
                "for identity, session in sessions.items()",
                "for identity, session in ()",
            ),
        ),
        Sim(("node crash", "snapshot storm", "partition")),
    ),
    Mutant(
        "session-forgets-too-early",
        (45,),
        "a batch that was applied before is applied again",
        (
            Change(
                "rafter_kv.sessions:Sessions.admit",
                "if sequence <= session.last_sequence:",
                "if sequence < session.last_sequence:",
            ),
            Change(
                "rafter_kv.sessions:Session.record",
                "assert sequence == self.last_sequence + 1, "
                '"batches of a session are applied in order"',
                "pass",
            ),
        ),
        REPEATERS,
    ),
    Mutant(
        "tickets-begin-anew",
        (),
        "an answer to the process before a restart is taken for one to a new request",
        (Change("rafterd.router:Router.__init__", "random_bits(62)", "0"),),
        Script((ROUTER + "test_tickets_of_two_processes_do_not_meet",)),
    ),
    Mutant(
        "overtaken-read-repeated",
        (),
        "a read is answered by a repetition after a later command has been answered",
        (
            Change(
                "rafterd.router:Router._finish",
                "poison_overtaken(route.outstanding, outbound)",
                "pass",
            ),
        ),
        Script(
            (ROUTER + "test_a_read_that_was_overtaken_is_not_taken_from_a_repetition_under_way",)
        ),
    ),
    Mutant(
        "taken-back-attempt-counts",
        (),
        "reads are answered by an attempt that was taken back, of which others were refused",
        (
            Change(
                "rafterd.router:Router.complete",
                "reply.attempt >= outbound.first_attempt",
                "True",
            ),
        ),
        Script(
            (ROUTER + "test_an_answer_to_an_attempt_that_was_taken_back_does_not_count_for_reads",)
        ),
    ),
)
