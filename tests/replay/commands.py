"""The commands of interaction transcripts.

etcd's own, and these, for features that etcd's files never exercise (they change nothing of what
etcd's files mean):

    read-index ID CTX                    the answer shows as ReadStates of a Ready
    report-snapshot A B success|failure  on node A, how a snapshot for node B ended
    snapshot-unavailable ID BOOL         whether storage has no snapshot at hand
    tick ID N                            N ticks
    inspect ID                           quiesced=BOOL uncommitted=BYTES unstable=BYTES
    restart ID                           from what is stored; waiting work is lost
    stored-snapshot ID                   the newest snapshot that was stored, with its data

`add-nodes` takes more options (see `node_options`), and operations of membership changes may be
`wN`, which adds a witness.
"""

from __future__ import annotations

from collections.abc import Callable

from rafter_core.errors import InvariantError, RaftError
from tests.replay import command_inputs, command_work
from tests.replay.changes import CommandError
from tests.replay.datadriven import Directive
from tests.replay.environment import Environment, error_text

Command = Callable[[Environment, Directive], None]


def run(environment: Environment, directive: Directive) -> str:
    """Run one directive and return what it prints, `ok` if nothing.

    Errors that a transcript may expect are part of the output. A broken invariant is not: it ends
    the transcript.
    """
    output = environment.output
    output.take()
    command = COMMANDS.get(directive.command)
    error = ""
    try:
        if command is None:
            error = "unknown command"
        else:
            command(environment, directive)
    except CommandError as fault:
        error = str(fault)
    except InvariantError:
        raise
    except RaftError as fault:
        error = error_text(fault)
    # The level may have been changed for the directive alone: look at it now.
    text = output.take()
    return error if error and output.is_muted else text + error or "ok"


COMMANDS: dict[str, Command] = {
    "_breakpoint": command_work.do_nothing,
    "add-nodes": command_inputs.add_nodes,
    "campaign": command_inputs.campaign,
    "compact": command_work.compact,
    "deliver-msgs": command_work.deliver_messages,
    "forget-leader": command_inputs.forget_leader,
    "inspect": command_work.inspect,
    "log-level": command_work.log_level,
    "process-append-thread": command_work.process_append_thread,
    "process-apply-thread": command_work.process_apply_thread,
    "process-ready": command_work.process_ready,
    "propose": command_inputs.propose,
    "propose-conf-change": command_inputs.propose_conf_change,
    "raft-log": command_work.raft_log,
    "raft-state": command_work.raft_state,
    "read-index": command_inputs.read_index,
    "report-snapshot": command_inputs.report_snapshot,
    "report-unreachable": command_inputs.report_unreachable,
    "restart": command_work.restart,
    "send-snapshot": command_work.send_snapshot,
    "set-randomized-election-timeout": command_inputs.set_election_timeout,
    "snapshot-unavailable": command_work.snapshot_unavailable,
    "stabilize": command_work.stabilize,
    "status": command_work.status,
    "stored-snapshot": command_work.stored_snapshot,
    "tick": command_inputs.tick,
    "tick-election": command_inputs.tick_election,
    "tick-heartbeat": command_inputs.tick_heartbeat,
    "transfer-leadership": command_inputs.transfer_leadership,
}
