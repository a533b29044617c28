"""The errors of the core, by whose fault they are.

- The caller's (RequestRefused): NotLeader, ProposalDropped, ReadDropped, TransferRefused; and
  ConfigError, ConfChangeError. State is unchanged.
- A peer's: StepError with its kinds, DecodeError. State is unchanged; drop the message, count it.
- The storage room's answers: Compacted, Unavailable, SnapshotOutOfDate, SnapshotUnavailable.
- Nobody's to handle: InvariantError. State can no longer be trusted: the shard stops and recovers.
"""


class RaftError(Exception):
    """Base of every error that the core raises."""


class ConfigError(RaftError, ValueError):
    """A configuration value is impossible; the text names it and says what is allowed."""


class RequestRefused(RaftError):
    """A request was not taken and had no effect: making it again, perhaps elsewhere, is safe.

    `RawNode.step` raises it too, for a request that another node forwarded to this one.
    """


class NotLeader(RequestRefused):
    """The request needs a leader, and none is known here."""


class ProposalDropped(RequestRefused):
    """The proposal was not appended and never will be: proposing it again is safe."""


class ReadDropped(RequestRefused):
    """The read was not queued: too many wait for their confirmation, or no leader is known."""


class TransferRefused(RequestRefused):
    """Leadership cannot be handed to that node."""


class ConfChangeError(RaftError, ValueError):
    """A change of the membership is impossible from the present one."""


class StepError(RaftError):
    """A peer sent a message that no correct peer sends. It had no effect."""


class PeerNotFound(StepError):
    """A response came from a node that is no member, perhaps of one that was removed."""


class LocalMessage(StepError):
    """A kind of message that never leaves its node came from another one."""


class DecodeError(RaftError, ValueError):
    """Bytes from a peer or a disk are not what the serializer writes."""


class Compacted(RaftError):
    """The index asked for lies before the first one that storage still holds."""


class Unavailable(RaftError):
    """The index asked for lies beyond the last one that storage holds."""


class SnapshotOutOfDate(RaftError):
    """The storage holds a newer snapshot than the one it was given."""


class SnapshotUnavailable(RaftError):
    """There is no snapshot at the moment; asking again later is right."""


class InvariantError(RaftError):
    """A promise of the protocol is broken, here or by the driver: stop, do not answer, recover.

    Never caught inside the core. A broken invariant costs a restart; going on could cost data.
    """
