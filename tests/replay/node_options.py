"""The options of `add-nodes`: a configuration, and the snapshot that the nodes start from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from rafter_core.config import Config, ReadMode
from rafter_core.membership import Membership
from rafter_core.snapshot import Snapshot
from tests.replay.changes import CommandError, parse_truth
from tests.replay.datadriven import Argument, TranscriptError

UNLIMITED = (1 << 64) - 1
_READ_MODES = {"safe": ReadMode.SAFE, "lease-based": ReadMode.LEASE}


@dataclass(frozen=True, slots=True)
class NodeOptions:
    """What the next nodes have in common. No snapshot: they start blank."""

    config: Config
    snapshot: Snapshot | None


@dataclass(slots=True)
class _Values:
    """The values of the options, by key. Keys that are unknown are ignored."""

    values: dict[str, list[str]] = field(default_factory=dict)

    def numbers(self, key: str) -> tuple[int, ...]:
        try:
            return tuple(int(value) for value in self.values.get(key, ()))
        except ValueError as error:
            raise TranscriptError(f"{key}=: {error}") from None

    def number(self, key: str, default: int) -> int:
        found = self.numbers(key)
        return found[-1] if found else default

    def limit(self, key: str, default: int = UNLIMITED) -> int:
        """Return a limit. Zero means what being absent means."""
        return self.number(key, 0) or default

    def text(self, key: str, default: str) -> str:
        found = self.values.get(key, ())
        return found[-1] if found else default

    def truth(self, key: str) -> bool:
        try:
            return parse_truth(self.text(key, "false"))
        except CommandError as error:
            raise TranscriptError(f"{key}=: {error}") from None


def node_options(arguments: Sequence[Argument]) -> NodeOptions:
    """Read the options. Defaults are etcd's in its own harness: no limits, no safety nets.

    Beyond etcd's, there are max-size-per-msg, max-uncommitted-size, max-inflight-bytes,
    disable-proposal-forwarding, quiesce-after, priority, and witnesses, which are voters too.
    """
    given = _Values()
    for argument in arguments:
        given.values.setdefault(argument.key, []).extend(argument.values)
    read_mode = given.text("read-only", "safe")
    if read_mode not in _READ_MODES:
        raise CommandError(f'invalid read-only option "{read_mode}"')
    index = given.number("index", 0)
    message_bytes_max = given.number("max-size-per-msg", UNLIMITED)
    config = Config(
        node_id=1,
        election_timeout_ticks=3,
        heartbeat_ticks=1,
        pre_vote=given.truth("prevote"),
        check_quorum=given.truth("checkquorum"),
        async_storage_writes=given.truth("async-storage-writes"),
        messages_wait_for_term=False,
        eager_commit=True,
        read_mode=_READ_MODES[read_mode],
        step_down_on_removal=given.truth("step-down-on-removal"),
        validate_conf_changes=not given.truth("disable-conf-change-validation"),
        forward_proposals=not given.truth("disable-proposal-forwarding"),
        priority=given.number("priority", 0),
        quiesce_after_ticks=given.number("quiesce-after", 0),
        message_bytes_max=message_bytes_max,
        inflight_messages_max=given.limit("inflight", (1 << 31) - 1),
        inflight_bytes_max=given.limit("max-inflight-bytes"),
        uncommitted_bytes_max=given.limit("max-uncommitted-size"),
        committed_bytes_per_ready_max=given.limit(
            "max-committed-size-per-ready", message_bytes_max
        ),
        pending_reads_max=1 << 20,
        applied=index,
    )
    return NodeOptions(config, _snapshot(given, index))


def _snapshot(given: _Values, index: int) -> Snapshot | None:
    witnesses = given.numbers("witnesses")
    membership = Membership(
        voters=tuple(sorted({*given.numbers("voters"), *witnesses})),
        learners=tuple(sorted(set(given.numbers("learners")))),
        witnesses=tuple(sorted(set(witnesses))),
    )
    data = given.text("content", "").encode()
    if not index and not data and membership == Membership(()):
        return None
    return Snapshot(index, 1, membership, data)
