"""Mutants of snapshots and of what is on disk."""

from __future__ import annotations

from tests.mutants.mutant import Mutant, Script, Sim, has_followers
from tests.mutants.patching import Change
from tests.sim.plans import Plan

POWER = Sim(("power loss", "slow disk"))
SUFFIX_KEPT = (
    "tests/core/test_known_bugs_snapshots.py::"
    "test_a_snapshot_of_what_stands_in_the_log_commits_and_keeps_the_rest"
)
CRASH = "tests/crash/test_enumeration.py::"


def keeps_one_snapshot(plan: Plan) -> bool:
    """Take plans whose groups take many snapshots, and keep one of them alone."""
    settings = plan.settings
    return settings["snapshot.log_entries"] in (10, 50) and settings["snapshot.retained"] == 1


def sends_snapshots(plan: Plan) -> bool:
    """Take plans in which followers that lag are sent snapshots."""
    return keeps_one_snapshot(plan) and has_followers(plan)


SNAPSHOTS = Sim(("power loss", "snapshot storm"), keeps_one_snapshot)
LATE_SNAPSHOTS = Sim(("drop", "reorder", "snapshot storm"), sends_snapshots)

MUTANTS = (
    Mutant(
        "snapshot-name-not-synced",
        (26, 27),
        "the log is cut before the name of the snapshot is durable",
        (
            Change(
                "rafter_storage.snapshot_writer:SnapshotDraft._publish",
                "for parent in paths.parents:",
                "for parent in ():",
            ),
        ),
        SNAPSHOTS,
    ),
    Mutant(
        "log-cut-too-far",
        (28,),
        "the log is cut up to the newest snapshot, and an older one cannot be fallen back to",
        (
            Change(
                "rafter_storage.snapshot_store:SnapshotStore.compactable_index",
                "return self.oldest_retained_index(group) if",
                "return snapshots[-1].index if snapshots and",
            ),
        ),
        Script((CRASH + "test_the_log_reaches_back_to_the_oldest_retained_snapshot",)),
    ),
    Mutant(
        "old-snapshot-taken",
        (29,),
        "a late snapshot rolls the group back",
        (
            Change(
                "rafter_core.snapshots:_restore",
                "if snapshot.index <= log.committed:",
                "if snapshot.index <= log.committed and log.restore(snapshot):",
            ),
        ),
        LATE_SNAPSHOTS,
    ),
    Mutant(
        "matching-log-cut",
        (29,),
        "a snapshot of what stands in the log throws the rest of the log away",
        (
            Change(
                "rafter_core.snapshots:_restore",
                "if log.matches(snapshot.term, snapshot.index):",
                "if False:",
            ),
        ),
        Script((SUFFIX_KEPT,)),
    ),
    Mutant(
        "partial-snapshot",
        (34,),
        "the bytes of a snapshot are not durable when it is taken for whole",
        (
            Change(
                "rafter_storage.snapshot_files:ChunkWriter.finish",
                "self._files.sync_data(self._descriptor)",
                "pass",
            ),
        ),
        SNAPSHOTS,
    ),
    Mutant(
        "applied-apart",
        (44,),
        "the applied index of a snapshot is not that of its state: an entry is applied twice",
        (
            Change(
                "rafterd.snapshot_courier:place_of",
                "Place(info.index,",
                "Place(info.index - 1,",
            ),
        ),
        SNAPSHOTS,
    ),
    Mutant(
        "log-not-synced",
        (48,),
        "the log is written and not synced",
        (
            Change(
                "rafter_storage.writer:SegmentWriter.sync",
                "self._files.sync_data(self._descriptor)",
                "pass",
            ),
            Change(
                "rafter_storage.writer:SegmentWriter._write_at_once",
                "is_synced=True",
                "is_synced=False",
            ),
        ),
        POWER,
    ),
)
