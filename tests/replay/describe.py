"""The texts of transcripts: how Go prints what etcd's raft prints of its values."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rafter_core.conf_change import Change, ChangeKind, decode
from rafter_core.entries import NO_NODE, Entry, EntryKind, HardState
from rafter_core.errors import DecodeError
from rafter_core.membership import Membership
from rafter_core.messages import APPEND_THREAD, APPLY_THREAD, Message, MessageKind
from rafter_core.progress import Progress, ProgressMode
from rafter_core.quorum import VoteResult
from rafter_core.ready import ReadState, Ready
from rafter_core.roles import Role
from rafter_core.snapshot import Snapshot

MESSAGE_KINDS = {
    MessageKind.CAMPAIGN: "MsgHup",
    MessageKind.BEAT: "MsgBeat",
    MessageKind.PROPOSE: "MsgProp",
    MessageKind.APPEND: "MsgApp",
    MessageKind.APPEND_RESPONSE: "MsgAppResp",
    MessageKind.VOTE: "MsgVote",
    MessageKind.VOTE_RESPONSE: "MsgVoteResp",
    MessageKind.SNAPSHOT: "MsgSnap",
    MessageKind.HEARTBEAT: "MsgHeartbeat",
    MessageKind.HEARTBEAT_RESPONSE: "MsgHeartbeatResp",
    MessageKind.UNREACHABLE: "MsgUnreachable",
    MessageKind.SNAPSHOT_STATUS: "MsgSnapStatus",
    MessageKind.CHECK_QUORUM: "MsgCheckQuorum",
    MessageKind.TRANSFER_LEADER: "MsgTransferLeader",
    MessageKind.TIMEOUT_NOW: "MsgTimeoutNow",
    MessageKind.READ_INDEX: "MsgReadIndex",
    MessageKind.READ_INDEX_RESPONSE: "MsgReadIndexResp",
    MessageKind.PRE_VOTE: "MsgPreVote",
    MessageKind.PRE_VOTE_RESPONSE: "MsgPreVoteResp",
    MessageKind.STORAGE_APPEND: "MsgStorageAppend",
    MessageKind.STORAGE_APPEND_RESPONSE: "MsgStorageAppendResp",
    MessageKind.STORAGE_APPLY: "MsgStorageApply",
    MessageKind.STORAGE_APPLY_RESPONSE: "MsgStorageApplyResp",
    MessageKind.FORGET_LEADER: "MsgForgetLeader",
    MessageKind.QUIESCE: "MsgQuiesce",
}
ROLES = {
    Role.FOLLOWER: "StateFollower",
    Role.CANDIDATE: "StateCandidate",
    Role.LEADER: "StateLeader",
    Role.PRE_CANDIDATE: "StatePreCandidate",
}
VOTE_RESULTS = {
    VoteResult.PENDING: "VotePending",
    VoteResult.LOST: "VoteLost",
    VoteResult.WON: "VoteWon",
}
_MODES = {
    ProgressMode.PROBE: "StateProbe",
    ProgressMode.REPLICATE: "StateReplicate",
    ProgressMode.SNAPSHOT: "StateSnapshot",
}
_ENTRY_KINDS = {
    EntryKind.NORMAL: "EntryNormal",
    EntryKind.CONFIG_CHANGE: "EntryConfChange",
    EntryKind.CONFIG_CHANGE_V2: "EntryConfChangeV2",
    EntryKind.STRIPPED: "EntryStripped",
}
_CHANGE_LETTERS = {
    ChangeKind.ADD_VOTER: "v",
    ChangeKind.REMOVE_NODE: "r",
    ChangeKind.UPDATE_NODE: "u",
    ChangeKind.ADD_LEARNER: "l",
    ChangeKind.ADD_WITNESS: "w",
}
_TARGETS = {NO_NODE: "None", APPEND_THREAD: "AppendThread", APPLY_THREAD: "ApplyThread"}
_ESCAPES = {
    '"': '\\"',
    "\\": "\\\\",
    "\a": "\\a",
    "\b": "\\b",
    "\f": "\\f",
    "\n": "\\n",
    "\r": "\\r",
    "\t": "\\t",
    "\v": "\\v",
}


# ---- Go's formats ----------------------------------------------------------------------------


def quote(payload: bytes) -> str:
    """Return what Go's %q makes of bytes: printable Unicode stays, all else is escaped."""
    # Each byte that is not UTF-8 becomes a lone surrogate, which no UTF-8 can produce.
    text = payload.decode("utf-8", "surrogateescape")
    return f'"{"".join(map(_quote_character, text))}"'


def _quote_character(character: str) -> str:
    if (escape := _ESCAPES.get(character)) is not None:
        return escape
    # Go and Python agree on printable: letters, marks, numbers, punctuation, symbols, the space.
    if character.isprintable():
        return character
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    if code < 0x20 or code == 0x7F:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def numbers(values: Iterable[int]) -> str:
    """Return what Go's %v makes of a list of numbers."""
    return f"[{' '.join(map(str, values))}]"


def truth(value: bool) -> str:
    """Return what Go's %v makes of a truth value."""
    return "true" if value else "false"


# ---- values ----------------------------------------------------------------------------------


def hard_state(state: HardState) -> str:
    """Return a hard state; no vote is left out, the commit index never is."""
    vote = f" Vote:{state.vote}" if state.vote else ""
    return f"Term:{state.term}{vote} Commit:{state.commit}"


def changes(items: Iterable[Change]) -> str:
    """Return the operations of a membership change as they are typed: `v1 l2`."""
    return " ".join(f"{_CHANGE_LETTERS[kind]}{node}" for kind, node in items)


def entry(item: Entry) -> str:
    """Return a log entry with its payload."""
    if item.kind is EntryKind.NORMAL:
        payload = quote(item.payload)
    elif item.kind is EntryKind.STRIPPED:
        payload = ""
    else:
        try:
            payload = changes(decode(item.kind, item.payload).changes)
        except DecodeError as error:
            payload = str(error)
    space = " " if payload else ""
    return f"{item.term}/{item.index} {_ENTRY_KINDS[item.kind]}{space}{payload}"


def entries(items: Iterable[Entry]) -> str:
    """Return entries, each with a line break after it."""
    return "".join(f"{entry(item)}\n" for item in items)


def snapshot(item: Snapshot) -> str:
    """Return a snapshot without its data."""
    of = item.membership
    witnesses = f" Witnesses:{numbers(of.witnesses)}" if of.witnesses else ""
    return (
        f"Index:{item.index} Term:{item.term} ConfState:Voters:{numbers(of.voters)}"
        f" VotersOutgoing:{numbers(of.voters_outgoing)} Learners:{numbers(of.learners)}"
        f" LearnersNext:{numbers(of.learners_next)} AutoLeave:{truth(of.auto_leave)}{witnesses}"
    )


def membership(of: Membership) -> str:
    """Return a configuration the way it is logged; parts that are empty are left out."""
    text = f"voters={_ids(of.voters)}"
    if of.voters_outgoing:
        text += f"&&{_ids(of.voters_outgoing)}"
    if of.learners:
        text += f" learners={_ids(of.learners)}"
    if of.learners_next:
        text += f" learners_next={_ids(of.learners_next)}"
    if of.auto_leave:
        text += " autoleave"
    if of.witnesses:
        text += f" witnesses={_ids(of.witnesses)}"
    return text


def progress(of: Progress, is_learner: bool) -> str:
    """Return what a leader knows about one node."""
    text = f"{_MODES[of.mode]} match={of.match} next={of.next}"
    if is_learner:
        text += " learner"
    if of.is_paused:
        text += " paused"
    if of.pending_snapshot:
        text += f" pendingSnap={of.pending_snapshot}"
    if not of.recent_active:
        text += " inactive"
    if count := len(of.inflights):
        text += f" inflight={count}{'[full]' if of.inflights.is_full else ''}"
    return text


def progress_lines(progresses: Iterable[Progress], learners: Sequence[int]) -> str:
    """Return one line for each node that is tracked, ascending."""
    return "".join(
        f"{item.node}: {progress(item, item.node in learners)}\n"
        for item in sorted(progresses, key=lambda item: item.node)
    )


def message(item: Message, indent: str = "", *, has_responses: bool = True) -> str:
    """Return a message with all that is attached to it; no line break after the last line."""
    text = (
        f"{indent}{_target(item.sender)}->{_target(item.to)} {MESSAGE_KINDS[item.kind]}"
        f" Term:{item.term} Log:{item.log_term}/{item.index}"
    )
    if item.reject:
        text += f" Rejected (Hint: {item.reject_hint})"
    if item.commit:
        text += f" Commit:{item.commit}"
    if item.vote:
        text += f" Vote:{item.vote}"
    carried = _carried_entries(item)
    if len(carried) == 1:
        text += f" Entries:[{entry(carried[0])}]"
    elif carried:
        lines = "".join(f"\n{indent}  {entry(each)}" for each in carried)
        text += f" Entries:[{lines}\n{indent}]"
    if item.snapshot is not None and item.snapshot.index:
        text += f"\n{indent}  Snapshot: {snapshot(item.snapshot)}"
    if item.responses and has_responses:
        lines = "".join(f"\n{message(each, indent + '  ')}" for each in item.responses)
        text += f" Responses:[{lines}\n{indent}]"
    return text


def ready(item: Ready, messages: Sequence[Message]) -> str:
    """Return a Ready. `messages` are those that it has when storage is spoken to by message."""
    text = ""
    if item.soft_state is not None:
        text += f"Lead:{item.soft_state.leader} State:{ROLES[item.soft_state.role]}\n"
    if item.hard_state is not None and any(item.hard_state):
        text += f"HardState {hard_state(item.hard_state)}\n"
    if item.read_states:
        text += f"ReadStates [{' '.join(map(_read_state, item.read_states))}]\n"
    if item.entries:
        text += "Entries:\n" + entries(item.entries)
    if item.snapshot is not None and item.snapshot.index:
        text += f"Snapshot {snapshot(item.snapshot)}\n"
    if item.committed:
        text += "CommittedEntries:\n" + entries(item.committed)
    if messages:
        text += "Messages:\n" + "".join(f"{message(each)}\n" for each in messages)
    if not text:
        return "<empty Ready>"
    return f"Ready MustSync={truth(item.must_sync)}:\n{text}"


def _carried_entries(item: Message) -> Sequence[Entry]:
    """Return the entries of a message as etcd has them: there a read's context is one, too."""
    if item.kind in {MessageKind.READ_INDEX, MessageKind.READ_INDEX_RESPONSE}:
        return [Entry(0, 0, EntryKind.NORMAL, item.context)]
    return item.entries


def _read_state(item: ReadState) -> str:
    return f"{{{item.index} {numbers(item.context)}}}"


def _ids(nodes: Iterable[int]) -> str:
    return f"({' '.join(f'{node:x}' for node in nodes)})"


def _target(node: int) -> str:
    return _TARGETS.get(node) or f"{node:x}"
