"""The errors of the core, by whose fault they are.

- The caller's: ConfigError, NotLeader, ProposalDropped, ReadDropped, TransferRefused. State is
  unchanged.
- A peer's: StepError, DecodeError. State is unchanged; drop the message and count it.
- The storage room's answers: Compacted, Unavailable.
- Nobody's to handle: InvariantError. State can no longer be trusted: the shard stops and recovers.
"""


class RaftError(Exception):
    """Base of every error that the core raises."""


class ConfigError(RaftError, ValueError):
    """A configuration value is impossible; the text names it and says what is allowed."""


class NotLeader(RaftError):
    """The request needs the leader, and this replica is not it."""


class ProposalDropped(RaftError):
    """The proposal was not appended and never will be: proposing it again is safe."""


class ReadDropped(RaftError):
    """Too many reads wait for their confirmation; the read was not queued."""


class TransferRefused(RaftError):
    """Leadership cannot be handed to that node."""


class StepError(RaftError):
    """A peer sent a message that no correct peer sends. It had no effect."""


class DecodeError(RaftError, ValueError):
    """Bytes from a peer or a disk are not what the serializer writes."""


class Compacted(RaftError):
    """The index asked for lies before the first one that storage still holds."""


class Unavailable(RaftError):
    """The index asked for lies beyond the last one that storage holds."""


class InvariantError(RaftError):
    """A promise of the protocol is broken, here or by the driver: stop, do not answer, recover.

    Never caught inside the core. A broken invariant costs a restart; going on could cost data.
    """
