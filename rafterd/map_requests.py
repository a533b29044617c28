"""RAFTER.REPLACE: a client's request on its way to the leader of the system group, and back.

The shard that was asked sends the question again, to whoever leads then, until it is answered or
its time is up. Asking twice is harmless: the question names the incarnation to be given up.
"""

import logging
import secrets
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from rafter_kv.reply_slot import ReplySlot, deliver
from rafter_transport.exchanger import Channel
from rafterd.map_messages import Asked, Message, Publication, ReplaceAnswer
from rafterd.placement import SYSTEM_GROUP
from rafterd.shared import SharedState
from rafterd.system_group import SystemGroup

__all__ = ["MapRequests"]

logger = logging.getLogger(__name__)

REQUESTS_MAX = 16
"""Requests of one shard that may wait for an answer; further ones are refused."""
ATTEMPTS = 8
ATTEMPT_SECONDS = 0.5

TOO_MANY = "-BUSY too many requests of this kind are waiting; nothing was executed"
UNKNOWN_OUTCOME = (
    "-TIMEOUT The system group has no leader, or it did not answer in time: the outcome is unknown"
)


class Sender(Protocol):
    """The part of the exchanger that is used here."""

    def post(self, node: int, shard: int, channel: Channel, item: Any) -> bool:  # noqa: ANN401
        """Queue one item for the next flush; False when it was refused."""


class _Request(NamedTuple):
    asked: Asked
    slot: ReplySlot
    position: int


class MapRequests:
    """One shard's questions to the system group, and, in shard 0, its answers. On its loop."""

    def __init__(
        self,
        *,
        node: int,
        shard: int,
        shared: SharedState,
        sender: Sender,
        call_later: Callable[..., Any],
        schedule: Callable[[], None],
        publication: Callable[[], Publication],
        random_bits: Callable[[int], int] = secrets.randbits,
    ) -> None:
        """Begin without questions. `system` is this shard's service on the system group."""
        self.system: SystemGroup | None = None
        self._node = node
        self._shard = shard
        self._shared = shared
        self._sender = sender
        self._call_later = call_later
        self._schedule = schedule
        self._publication = publication
        self._requests: dict[int, _Request] = {}
        # Not from 1: answers to the process before may still be on their way here.
        self._number = random_bits(48)

    # Questions --------------------------------------------------------------------------------

    def replace(self, node: int, slot: ReplySlot, position: int) -> None:
        """Have a node replaced, and fill `slot.replies[position]` with the answer."""
        known = [record for record in self._publication().nodes if record.node == node]
        if not known:
            self._fill(slot, position, f"-ERR node {node} is not in the cluster's map")
        elif len(self._requests) >= REQUESTS_MAX:
            self._fill(slot, position, TOO_MANY)
        else:
            self._number += 1
            asked = Asked(self._number, node, known[0].incarnation)
            self._requests[self._number] = _Request(asked, slot, position)
            self._attempt(self._number, ATTEMPTS)

    def _attempt(self, number: int, left: int) -> None:
        request = self._requests.get(number)
        if request is None:
            return
        if not left:
            self._answered(ReplaceAnswer(number, None), UNKNOWN_OUTCOME)
            return
        self.to_leader(request.asked)
        self._call_later(ATTEMPT_SECONDS, self._attempt, number, left - 1)

    def to_leader(self, message: Message) -> None:
        """Bring a message to the leader of the system group; without one it is lost."""
        leader, _ = self._shared.route(SYSTEM_GROUP)
        if (leader, 0) == (self._node, self._shard):
            self.receive(self._node, self._shard, message)
        elif leader:
            self._send(leader, 0, message)

    # Both -------------------------------------------------------------------------------------

    def receive(self, node: int, shard: int, message: Message) -> None:
        """Take a message of the shard (node, shard), maybe this one."""
        if isinstance(message, ReplaceAnswer):
            self._answered(message, f"-ERR {message.refusal}" if message.refusal else "+OK")
        elif self.system is None:
            logger.debug("a message for the system group came to where it is not: %s", message)
        elif isinstance(message, Asked):
            self._ask(self.system, node, shard, message)
        elif not isinstance(message, Publication):
            self.system.report(message)

    def _ask(self, system: SystemGroup, node: int, shard: int, asked: Asked) -> None:
        def answer(refusal: str | None) -> None:
            reply = ReplaceAnswer(asked.number, refusal)
            if (node, shard) == (self._node, self._shard):
                self.receive(node, shard, reply)
            else:
                self._send(node, shard, reply)

        refusal = system.replace(asked.node, asked.incarnation, answer)
        if refusal is not None:
            answer(refusal)

    def _send(self, node: int, shard: int, message: Message) -> None:
        # A refused post begins to dial; the question, and with it the answer, comes again.
        if self._sender.post(node, shard, Channel.CLUSTER_MAP, message):
            self._schedule()

    def _answered(self, answer: ReplaceAnswer, reply: str) -> None:
        request = self._requests.pop(answer.number, None)
        if request is not None:
            self._fill(request.slot, request.position, reply)

    def _fill(self, slot: ReplySlot, position: int, reply: str) -> None:
        deliver((slot,), (position,), (reply,))
        self._schedule()
