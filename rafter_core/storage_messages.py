"""The message form of the asynchronous mode: storage threads as peers (etcd's MsgStorageAppend).

A driver may treat what stores and what applies as two more nodes that it exchanges messages with,
instead of calling `storage_done` and `apply_done`. For each Ready it sends `append_message` to the
part that stores, and `apply_message` to the part that applies. Each part does its work in the order
of the messages and then releases the `responses` of each: those addressed to this node go back
through `RawNode.step`, all others to their nodes.

The response of STORAGE_APPEND carries the term it was asked in. In a later term its entries say
nothing any more, since they may have been replaced meanwhile (A-B-A).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rafter_core.messages import (
    APPEND_THREAD,
    APPLY_THREAD,
    STORAGE_APPEND,
    STORAGE_APPEND_RESPONSE,
    STORAGE_APPLY,
    STORAGE_APPLY_RESPONSE,
    Message,
)

if TYPE_CHECKING:
    from rafter_core.raft import Raft
    from rafter_core.ready import Ready


def append_message(ready: Ready) -> Message | None:
    """Return what is to be stored for a Ready, with what to release then; None for nothing.

    `term`, `vote` and `commit` are the hard state if it changed, else 0.
    """
    if not ready.needs_storage and not ready._responses:
        return None
    responses = list(ready._responses)
    if ready._last_index or ready.snapshot is not None:
        # After the own acknowledgements: they look the new entries up in memory.
        responses.append(
            Message(
                kind=STORAGE_APPEND_RESPONSE,
                to=ready._node_id,
                sender=APPEND_THREAD,
                term=ready._term,
                log_term=ready._last_term,
                index=ready._last_index,
                snapshot=ready.snapshot,
            )
        )
    hard_state = ready.hard_state
    return Message(
        kind=STORAGE_APPEND,
        to=APPEND_THREAD,
        sender=ready._node_id,
        term=0 if hard_state is None else hard_state.term,
        vote=0 if hard_state is None else hard_state.vote,
        commit=0 if hard_state is None else hard_state.commit,
        entries=ready.entries,
        snapshot=ready.snapshot,
        responses=responses,
    )


def apply_message(ready: Ready) -> Message | None:
    """Return what is to be applied for a Ready, with the response to release then; or None."""
    if not ready.committed:
        return None
    response = Message(
        kind=STORAGE_APPLY_RESPONSE,
        to=ready._node_id,
        sender=APPLY_THREAD,
        entries=ready.committed,
    )
    return Message(
        kind=STORAGE_APPLY,
        to=APPLY_THREAD,
        sender=ready._node_id,
        entries=ready.committed,
        responses=[response],
    )


def handle_append_response(raft: Raft, message: Message) -> None:
    """Take note that an append is durable; its term is the present one."""
    raft.storage_done(message.log_term, message.index, message.snapshot)


def handle_apply_response(raft: Raft, message: Message) -> None:
    """Take note that entries are applied."""
    if message.entries:
        raft.applied_to(message.entries[-1].index)
