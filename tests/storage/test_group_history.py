"""Tests of rafter_storage.group_history: each rule, kept and broken."""

import random
from pathlib import Path

import pytest

from rafter_core.entries import HardState
from rafter_storage.group_history import GroupHistory, Terms
from rafter_storage.group_metadata import GroupMetadata
from rafter_storage.record import RecordKind, RecordPrefix

PATH = Path("segment")
NO_RANGE = (0, 0, 0)
ENTRIES, GROUP, RESET, COPY, REMOVED = (
    RecordKind.ENTRIES, RecordKind.GROUP, RecordKind.RESET, RecordKind.COPY, RecordKind.REMOVED,
)  # fmt: skip


class Told:
    """A history, what was said against its records, and where the next one is."""

    def __init__(self) -> None:
        self.history = GroupHistory(1)
        self.faults: list[str] = []
        self.offset = 0

    def tell(
        self,
        kind: RecordKind = ENTRIES,
        entries_range: tuple[int, int, int] = NO_RANGE,
        state: tuple[int, int, int] = (1, 0, 0),
        metadata: GroupMetadata | None = None,
    ) -> "Told":
        self.offset += 8
        prefix = RecordPrefix(kind, 96, 0, 1, HardState(*state), *entries_range, 0, 0, 0)
        self.faults += self.history.take(prefix, metadata, (PATH, self.offset))
        return self

    def ends(self) -> list[str]:
        return [damage.reason for damage in self.history.damages()]


def test_log_that_keeps_the_rules_is_not_complained_of() -> None:
    told = Told().tell(ENTRIES, (1, 5, 1)).tell(ENTRIES, (4, 6, 2), (2, 1, 3))
    told.tell(GROUP, state=(2, 1, 3), metadata=GroupMetadata(2, 1, (), 3, 1))
    told.tell(COPY, (3, 3, 1), (2, 1, 3)).tell(state=(3, 2, 6))
    assert (told.faults, told.ends()) == ([], [])
    history = told.history
    assert (history.first_index, history.last_index) == (3, 6)
    assert [history.term(index) for index in range(2, 8)] == [None, 1, 2, 2, 2, None]
    assert history.hard_state == HardState(3, 2, 6)


@pytest.mark.parametrize(
    ("state", "fault"),
    [
        ((4, 2, 3), "term 4 after term 5"),
        ((5, 1, 3), "a vote for 1 in term 5 after one for 2"),
        ((5, 0, 3), "a vote for 0 in term 5 after one for 2"),
        ((5, 2, 2), "commit index 2 after 3"),
    ],
)
def test_hard_state_never_goes_back(state: tuple[int, int, int], fault: str) -> None:
    told = Told().tell(ENTRIES, (1, 4, 5), (5, 2, 3)).tell(state=state)
    assert told.faults == [fault]


def test_vote_may_change_with_the_term_and_be_given_once() -> None:
    told = Told().tell(state=(5, 0, 0)).tell(state=(5, 3, 0)).tell(state=(6, 1, 0))
    assert told.faults == []


def test_committed_entries_are_not_replaced() -> None:
    told = Told().tell(ENTRIES, (1, 4, 1), (1, 0, 3)).tell(ENTRIES, (3, 4, 2), (2, 0, 3))
    assert told.faults == ["entries from 3 replace the committed 3"]


def test_gap_is_seen_where_it_opens_and_at_the_end() -> None:
    told = Told().tell(ENTRIES, (1, 4, 1)).tell(ENTRIES, (6, 7, 1))
    assert told.faults == ["entries from 6 do not follow the log, which ends at 4"]
    assert told.ends() == ["group 1: the entries 5 to 5 before it are in no segment"]
    assert [damage[:2] for damage in told.history.damages()] == [(PATH, 16)]


def test_entries_of_segments_that_have_gone_must_come_as_copies() -> None:
    told = Told().tell(ENTRIES, (5, 6, 2), (2, 0, 4))
    assert told.ends() == ["group 1: the entries 1 to 4 before it are in no segment"]
    told.tell(COPY, (1, 2, 1), (2, 0, 4)).tell(COPY, (3, 4, 1), (2, 0, 4))
    assert (told.faults, told.ends()) == ([], [])


def test_copy_must_be_of_what_the_log_has() -> None:
    told = Told().tell(ENTRIES, (1, 4, 1)).tell(COPY, (4, 5, 1)).tell(COPY, (2, 3, 2), (2, 0, 0))
    assert told.faults == [
        "a copy of the entries 4 to 5, the log ends at 4",
        "a copy of the entries 2 to 3 of term 2, the entry 2 has term 1",
    ]


def test_terms_of_entries_never_fall() -> None:
    told = Told().tell(ENTRIES, (1, 4, 3), (3, 0, 0)).tell(ENTRIES, (5, 5, 2), (3, 0, 0))
    assert told.ends() == ["group 1: the entry 5 has term 2 after term 3"]


@pytest.mark.parametrize("commit", [1, 6])
def test_commit_index_lies_within_the_log(commit: int) -> None:
    told = Told().tell(RESET, state=(1, 0, commit), metadata=GroupMetadata(2, 1, (), 2, 1))
    told.tell(ENTRIES, (3, 5, 1), (1, 0, commit))
    reason = f"group 1: the commit index is {commit}, the log begins behind 2 and ends at 5"
    assert told.ends() == [reason]
    assert [damage[:2] for damage in told.history.damages()] == [(PATH, 16)]


def test_log_that_was_cut_is_not_put_back() -> None:
    told = Told().tell(ENTRIES, (1, 6, 1), (1, 0, 6))
    told.tell(GROUP, state=(1, 0, 6), metadata=GroupMetadata(5, 1, (), 5, 1))
    told.tell(GROUP, state=(1, 0, 6), metadata=GroupMetadata(4, 1, (), 4, 1))
    assert told.faults == [
        "the log begins behind 4, and began behind 5 before",
        "the newest snapshot is at 4, and was at 5 before",
    ]


@pytest.mark.parametrize(
    ("metadata", "fault"),
    [
        (GroupMetadata(3, 1, (), 2, 1), "the log begins behind 3, the newest snapshot is at 2"),
        (GroupMetadata(3, 1, (), 3, 2), "the snapshot at 3 has term 2, the log has term 1 there"),
        (GroupMetadata(3, 1, (), 5, 1), "the snapshot at 5 has term 1, the log has term 2 there"),
    ],
)
def test_snapshot_covers_the_base_and_has_the_term_of_its_entry(
    metadata: GroupMetadata, fault: str
) -> None:
    told = Told().tell(ENTRIES, (1, 4, 1)).tell(ENTRIES, (5, 6, 2), (2, 0, 6))
    told.tell(GROUP, state=(2, 0, 6), metadata=metadata)
    assert told.ends() == [f"group 1: {fault}"]
    assert [damage[:2] for damage in told.history.damages()] == [(PATH, 24)]


def test_base_has_the_term_of_its_entry() -> None:
    told = Told().tell(ENTRIES, (1, 4, 1), (2, 0, 4))
    told.tell(GROUP, state=(2, 0, 4), metadata=GroupMetadata(3, 2, (), 3, 2))
    assert told.faults == ["the log begins behind 3 of term 2, its term is 1"]


def test_reset_voids_the_log_and_nothing_that_is_committed() -> None:
    told = Told().tell(ENTRIES, (1, 4, 1), (1, 0, 2))
    told.tell(RESET, state=(2, 0, 9), metadata=GroupMetadata(9, 2, (), 9, 2))
    assert (told.faults, told.ends()) == ([], [])
    assert (told.history.first_index, told.history.last_index) == (10, 9)
    told.tell(RESET, state=(2, 0, 9), metadata=GroupMetadata(8, 2, (), 8, 2))
    assert told.faults == ["the log is reset to begin behind 8, 9 is committed"]


def test_removed_group_has_no_past() -> None:
    told = Told().tell(ENTRIES, (1, 4, 9), (9, 2, 4)).tell(REMOVED, state=(0, 0, 0))
    assert told.history.is_removed
    told.tell(ENTRIES, (1, 1, 1), (1, 1, 0))
    assert not told.history.is_removed
    assert (told.faults, told.ends()) == ([], [])
    assert told.history.last_index == 1


def test_after_lost_metadata_nothing_is_held_against_a_group_until_it_begins_anew() -> None:
    told = Told().tell(ENTRIES, (1, 4, 9), (9, 2, 4))
    told.history.lose((PATH, 100))
    told.tell(ENTRIES, (40, 41, 3), (3, 0, 40))
    assert (told.faults, told.ends()) == ([], [])
    told.tell(RESET, state=(4, 0, 50), metadata=GroupMetadata(50, 4, (), 50, 4))
    told.tell(ENTRIES, (52, 52, 4), (4, 0, 50))
    assert told.faults == ["entries from 52 do not follow the log, which ends at 50"]


def test_terms_are_those_of_a_plain_dict() -> None:
    chance = random.Random(5)
    for _ in range(300):
        terms, plain = Terms(), dict[int, int]()
        for step in range(30):
            first = chance.randint(1, 20)
            last = first + chance.randrange(5)
            kind = chance.randrange(4)
            if kind == 0:
                terms.truncate(first)
                plain = {index: term for index, term in plain.items() if index < first}
            elif kind == 1:
                terms.compact(first)
                plain = {index: term for index, term in plain.items() if index > first}
            elif kind == 2:
                low = max(plain, default=0) + first // 10 + 1
                terms.append(low, low + last - first, step // 10, (PATH, 0))
                plain |= dict.fromkeys(range(low, low + last - first + 1), step // 10)
            else:
                covered = {plain.get(index, 0) for index in range(first, last + 1)}
                other = terms.cover(first, last, 0, (PATH, 0))
                assert (other is None) == (covered == {0})
                if other is None:
                    plain |= dict.fromkeys(range(first, last + 1), 0)
                else:
                    assert plain[other] != 0
            assert terms.last_index == max(plain, default=0)
            assert {i: terms.at(i) for i in range(200) if terms.at(i) is not None} == plain
            missing = [i for low, high, _ in terms.holes(1) for i in range(low, high + 1)]
            assert missing == sorted(set(range(1, terms.last_index)) - set(plain))
