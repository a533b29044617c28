"""rafter_core: the raft algorithm, without I/O, threads, clocks or randomness of its own.

A driver owns one `RawNode` per group and turns this loop, all on one task:

1. **Inputs.** Call `tick()` at a steady pace, `step(message)` for what peers sent,
   `propose(payload)`, `read_index(context)` and so on. Inputs only change state in memory.
2. **Take the work.** While `has_ready()`, call `ready()`. Each Ready is handed out once.
3. **Send `messages`** at once. A leader's appends leave here, before its own sync.
4. **Persist** `hard_state`, `snapshot` and `entries` as one unit, in the order of Readys. Entries
   replace any stored entry at or after `entries[0].index`. If `must_sync`, they must be on the disk
   for real. This may run on another thread, and the driver may go on with 1 to 3 and store several
   Readys at a time, even with one sync for many groups. A failed write or sync stops the node for
   good: never retry it.
5. **When a Ready is durable** (and every earlier one is), the LogStorage must return its entries;
   then call `storage_done(ready)`, and send its `messages_after_sync`, in either order. Both are
   due for every Ready in order of `number`, even when there was nothing to persist. A `snapshot`
   must by then also be what the state machine holds.
6. **Apply** `committed` in order, exactly once, then `apply_done(last index)`. Committed entries
   are durable here already, so this may overlap with storing the same Ready. A proposal succeeded
   when the entry applied at its index has its term; if another entry is applied there, it is
   lost. Entries that change the membership are decoded (`conf_change.decode`) and given to
   `apply_conf_change`, and the configuration it returns belongs to every snapshot from there on.
7. **Serve reads**: each of `read_states` once `applied` has reached its index.
8. Go on with 2: acknowledgements may have produced more work.

That is the asynchronous mode. In the synchronous one (`async_storage_writes=False`) a driver does
one Ready at a time: persist, then send all `messages`, apply, and call `advance()`. A third way
treats what stores and what applies as two more peers: see `rafter_core.storage_messages`.

Nothing is acknowledged before it is durable: this node's own vote and its own copy of an entry
count only from then on. With `messages_wait_for_term` no message that speaks of a new term leaves
before that term is durable. After a restart give a new RawNode the same storage and, in
`Config.applied`, the index the state machine holds already; the log is applied from the next one.

A group is founded by `bootstrap` on each of its first members, or by a storage that begins with a
configuration. A node that joins later starts empty and is sent the log or a snapshot, if the
configuration stands in one of them: a group that was founded by storages with a configuration at
index 0 must give every later node the same one, or a snapshot before anything else.

Errors say whose fault it is: see `rafter_core.errors`. InvariantError means stop.
"""

from rafter_core.conf_change import Change, ChangeKind, ConfChange, Transition
from rafter_core.config import Config, ReadMode
from rafter_core.entries import (
    NO_NODE,
    NUMBER_MAX,
    Entry,
    EntryKind,
    HardState,
    entry_bytes,
    limit_bytes,
)
from rafter_core.errors import (
    Compacted,
    ConfChangeError,
    ConfigError,
    DecodeError,
    InvariantError,
    LocalMessage,
    NotLeader,
    PeerNotFound,
    ProposalDropped,
    RaftError,
    ReadDropped,
    RequestRefused,
    SnapshotOutOfDate,
    SnapshotUnavailable,
    StepError,
    TransferRefused,
    Unavailable,
)
from rafter_core.membership import Membership
from rafter_core.memory_storage import MemoryStorage
from rafter_core.message_wire import messages_from_wire, messages_to_wire
from rafter_core.messages import Message, MessageKind
from rafter_core.progress import ProgressMode
from rafter_core.raw_node import RawNode
from rafter_core.ready import ReadState, Ready, SoftState
from rafter_core.roles import Role
from rafter_core.serializer import (
    pack_entries,
    unpack_entries,
)
from rafter_core.snapshot import Snapshot
from rafter_core.state_machine import StateMachine, Update
from rafter_core.status import ProgressStatus, Status
from rafter_core.storage import LogStorage
from rafter_core.trace import TraceEvent, TraceSink

__all__ = [
    "NO_NODE",
    "NUMBER_MAX",
    "Change",
    "ChangeKind",
    "Compacted",
    "ConfChange",
    "ConfChangeError",
    "Config",
    "ConfigError",
    "DecodeError",
    "Entry",
    "EntryKind",
    "HardState",
    "InvariantError",
    "LocalMessage",
    "LogStorage",
    "Membership",
    "MemoryStorage",
    "Message",
    "MessageKind",
    "NotLeader",
    "PeerNotFound",
    "ProgressMode",
    "ProgressStatus",
    "ProposalDropped",
    "RaftError",
    "RawNode",
    "ReadDropped",
    "ReadMode",
    "ReadState",
    "Ready",
    "RequestRefused",
    "Role",
    "Snapshot",
    "SnapshotOutOfDate",
    "SnapshotUnavailable",
    "SoftState",
    "StateMachine",
    "Status",
    "StepError",
    "TraceEvent",
    "TraceSink",
    "TransferRefused",
    "Transition",
    "Unavailable",
    "Update",
    "entry_bytes",
    "limit_bytes",
    "messages_from_wire",
    "messages_to_wire",
    "pack_entries",
    "unpack_entries",
]
