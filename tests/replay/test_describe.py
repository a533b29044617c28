from __future__ import annotations

import pytest

from rafter_core.conf_change import Change, ChangeKind, ConfChange, Transition, encode
from rafter_core.entries import Entry, EntryKind, HardState
from rafter_core.inflights import Inflights
from rafter_core.membership import Membership
from rafter_core.messages import APPEND_THREAD, APPLY_THREAD, Message, MessageKind
from rafter_core.progress import Progress
from rafter_core.roles import Role
from rafter_core.snapshot import Snapshot
from tests.replay import describe

NOOP = Entry(1, 11, EntryKind.NORMAL, b"")
SNAPSHOT = Snapshot(11, 1, Membership((1, 2), (1,), (3,), (), True))
SNAPSHOT_TEXT = (
    "Index:11 Term:1 ConfState:Voters:[1 2] VotersOutgoing:[1] Learners:[3] LearnersNext:[]"
    " AutoLeave:true"
)


@pytest.mark.parametrize(
    ("payload", "text"),
    [
        (b"", '""'),
        (b"a b", '"a b"'),
        (b'"foo"', '"\\"foo\\""'),
        (b"\\", '"\\\\"'),
        (b"\a\b\f\n\r\t\v", '"\\a\\b\\f\\n\\r\\t\\v"'),
        (b"\x00\x1b\x7f", '"\\x00\\x1b\\x7f"'),
        (b"\x80\xff", '"\\x80\\xff"'),
        ("é∞日".encode(), '"é∞日"'),
        ("\u0085\u00a0\u200b\u2028".encode(), '"\\u0085\\u00a0\\u200b\\u2028"'),
        ("\U000e0001\U0001f600".encode(), '"\\U000e0001\U0001f600"'),
        ("\ufffd".encode(), '"\ufffd"'),
        # A sequence that is cut short, an overlong one and a surrogate are no UTF-8.
        (b"\xe2\x82a", '"\\xe2\\x82a"'),
        (b"\xc0\xaf", '"\\xc0\\xaf"'),
        (b"\xed\xa0\x80", '"\\xed\\xa0\\x80"'),
    ],
)
def test_payloads_are_quoted_like_go_quotes_them(payload: bytes, text: str) -> None:
    assert describe.quote(payload) == text


def test_a_hard_state_leaves_out_no_vote_but_never_the_commit_index() -> None:
    assert describe.hard_state(HardState(1, 0, 0)) == "Term:1 Commit:0"
    assert describe.hard_state(HardState(1, 10, 12)) == "Term:1 Vote:10 Commit:12"


def test_an_entry_shows_its_payload_by_its_kind() -> None:
    changes = tuple(Change(kind, 10 + number) for number, kind in enumerate(ChangeKind))
    several = ConfChange(changes, Transition.JOINT_EXPLICIT)
    single = ConfChange(changes[:1], is_v1=True)
    assert [
        describe.entry(Entry(1, 2, kind, payload))
        for kind, payload in (
            (EntryKind.NORMAL, b"x"),
            (EntryKind.CONFIG_CHANGE, encode(single)),
            (EntryKind.CONFIG_CHANGE_V2, encode(several)),
            (EntryKind.CONFIG_CHANGE_V2, encode(ConfChange())),
            (EntryKind.STRIPPED, b""),
        )
    ] == [
        '1/2 EntryNormal "x"',
        "1/2 EntryConfChange v10",
        "1/2 EntryConfChangeV2 v10 r11 u12 l13 w14",
        "1/2 EntryConfChangeV2",
        "1/2 EntryStripped",
    ]


def test_a_snapshot_mentions_witnesses_only_if_there_are_any() -> None:
    assert describe.snapshot(SNAPSHOT) == SNAPSHOT_TEXT
    with_witness = SNAPSHOT._replace(membership=SNAPSHOT.membership._replace(witnesses=(2,)))
    assert describe.snapshot(with_witness) == SNAPSHOT_TEXT + " Witnesses:[2]"


@pytest.mark.parametrize(
    ("membership", "text"),
    [
        (Membership(()), "voters=()"),
        (Membership((1, 10, 16)), "voters=(1 a 10)"),
        (Membership((1,), (1, 2)), "voters=(1)&&(1 2)"),
        (
            Membership((1, 3), (1, 2), (4,), (2,), True, (3,)),
            "voters=(1 3)&&(1 2) learners=(4) learners_next=(2) autoleave witnesses=(3)",
        ),
    ],
)
def test_a_configuration_leaves_out_what_is_empty(membership: Membership, text: str) -> None:
    assert describe.membership(membership) == text


def test_progress_shows_mode_window_and_what_is_unusual() -> None:
    progress = Progress(2, 5, Inflights(2, 1 << 20))
    assert describe.progress(progress, False) == "StateProbe match=0 next=5 inactive"
    progress.recent_active = True
    assert describe.progress(progress, True) == "StateProbe match=0 next=5 learner"
    progress.become_replicate()
    progress.sent(1, 10, 0)
    assert describe.progress(progress, False) == "StateReplicate match=0 next=2 inflight=1"
    progress.sent(1, 10, 0)
    text = "StateReplicate match=0 next=3 paused inflight=2[full]"
    assert describe.progress(progress, False) == text
    progress.become_snapshot(7)
    text = "StateSnapshot match=0 next=8 paused pendingSnap=7"
    assert describe.progress(progress, False) == text


def test_progress_lines_ascend_and_name_nodes_in_decimal() -> None:
    tracked = [Progress(node, 1, Inflights(1, 1)) for node in (10, 2)]
    assert describe.progress_lines(tracked, (10,)) == (
        "2: StateProbe match=0 next=1 inactive\n10: StateProbe match=0 next=1 learner inactive\n"
    )


def test_a_message_shows_what_it_carries() -> None:
    message = Message(
        kind=MessageKind.APPEND, sender=1, to=10, term=3, log_term=2, index=9, commit=8
    )
    assert describe.message(message) == "1->a MsgApp Term:3 Log:2/9 Commit:8"
    message = Message(kind=MessageKind.APPEND_RESPONSE, sender=0, to=1, reject=True, reject_hint=4)
    assert describe.message(message) == "None->1 MsgAppResp Term:0 Log:0/0 Rejected (Hint: 4)"


def test_the_context_of_a_read_shows_as_the_entry_that_etcd_carries_it_in() -> None:
    message = Message(kind=MessageKind.READ_INDEX, sender=2, to=1, context=b"c")
    assert describe.message(message) == (
        '2->1 MsgReadIndex Term:0 Log:0/0 Entries:[0/0 EntryNormal "c"]'
    )
    message = Message(
        kind=MessageKind.READ_INDEX_RESPONSE, sender=1, to=2, term=3, index=4, context=b""
    )
    assert describe.message(message) == (
        '1->2 MsgReadIndexResp Term:3 Log:0/4 Entries:[0/0 EntryNormal ""]'
    )
    message = Message(kind=MessageKind.HEARTBEAT, sender=1, to=2, term=3, context=b"c")
    assert describe.message(message) == "1->2 MsgHeartbeat Term:3 Log:0/0"


def test_several_entries_stand_on_lines_of_their_own() -> None:
    message = Message(kind=MessageKind.APPEND, sender=1, to=2, entries=[NOOP])
    assert describe.message(message).endswith(' Log:0/0 Entries:[1/11 EntryNormal ""]')
    message = Message(kind=MessageKind.APPEND, sender=1, to=2, entries=[NOOP, NOOP])
    assert describe.message(message, "  ") == (
        "  1->2 MsgApp Term:0 Log:0/0 Entries:[\n"
        '    1/11 EntryNormal ""\n'
        '    1/11 EntryNormal ""\n'
        "  ]"
    )


def test_a_message_to_storage_shows_its_responses_further_right() -> None:
    response = Message(
        kind=MessageKind.STORAGE_APPEND_RESPONSE, sender=APPEND_THREAD, to=1, snapshot=SNAPSHOT
    )
    message = Message(
        kind=MessageKind.STORAGE_APPEND,
        sender=1,
        to=APPEND_THREAD,
        term=1,
        commit=11,
        vote=2,
        snapshot=SNAPSHOT,
        responses=[response],
    )
    head = (
        "1->AppendThread MsgStorageAppend Term:1 Log:0/0 Commit:11 Vote:2"
        f"\n  Snapshot: {SNAPSHOT_TEXT}"
    )
    assert describe.message(message, has_responses=False) == head
    assert describe.message(message) == (
        f"{head} Responses:[\n"
        "  AppendThread->1 MsgStorageAppendResp Term:0 Log:0/0\n"
        f"    Snapshot: {SNAPSHOT_TEXT}\n"
        "]"
    )
    message = Message(kind=MessageKind.STORAGE_APPLY_RESPONSE, sender=APPLY_THREAD, to=1)
    assert describe.message(message) == "ApplyThread->1 MsgStorageApplyResp Term:0 Log:0/0"


def test_every_kind_and_every_role_has_a_name() -> None:
    assert set(describe.MESSAGE_KINDS) == set(MessageKind)
    assert set(describe.ROLES) == set(Role)
