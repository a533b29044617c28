"""Interaction commands that move work and messages along, and those that show what is there."""

from __future__ import annotations

from collections.abc import Callable

from rafter_core.messages import Message, MessageKind
from tests.replay import describe
from tests.replay.changes import parse_truth
from tests.replay.datadriven import Argument, Directive, TranscriptError, number
from tests.replay.environment import Environment, Node

_MESSAGE_KINDS = {name: kind for kind, name in describe.MESSAGE_KINDS.items()}
_SIZE_UNLIMITED = (1 << 64) - 1


def process_ready(environment: Environment, directive: Directive) -> None:
    _process_each(environment, directive, "handling Ready", environment.process_ready)


def process_append_thread(environment: Environment, directive: Directive) -> None:
    work = environment.process_append_thread
    _process_each(environment, directive, "processing append thread", work)


def process_apply_thread(environment: Environment, directive: Directive) -> None:
    work = environment.process_apply_thread
    _process_each(environment, directive, "processing apply thread", work)


def _process_each(
    environment: Environment, directive: Directive, title: str, work: Callable[[Node], None]
) -> None:
    nodes = environment.named(directive.numbers())
    if len(nodes) == 1:
        work(nodes[0])
        return
    for node in nodes:
        environment.output.write(f"> {node.id} {title}\n")
        with environment.output.indented():
            work(node)


def deliver_messages(environment: Environment, directive: Directive) -> None:
    recipients: list[tuple[int, bool]] = []
    kind: MessageKind | None = None
    for argument in directive.arguments:
        if not argument.values:
            recipients.append((number(argument.key), False))
        elif argument.key == "drop":
            recipients += _dropped(argument, [node for node, _ in recipients])
        elif argument.key == "type":
            name = argument.values[-1]
            if name not in _MESSAGE_KINDS:
                raise TranscriptError(f"unknown message type {name}")
            kind = _MESSAGE_KINDS[name]
    count = 0
    for node, is_dropped in recipients:
        messages = environment.take_messages(node, kind, is_dropped=is_dropped)
        count += len(messages)
        if is_dropped:
            environment.drop(messages)
        else:
            environment.deliver(messages)
    if not count:
        environment.output.write("no messages\n")


def _dropped(argument: Argument, recipients: list[int]) -> list[tuple[int, bool]]:
    nodes = [number(value) for value in argument.values]
    for node in nodes:
        if node in recipients:
            raise TranscriptError(f"can't both deliver and drop msgs to {node}")
    return [(node, True) for node in nodes]


def stabilize(environment: Environment, directive: Directive) -> None:
    nodes = environment.named(directive.numbers()) or environment.nodes
    output = environment.output
    level = output.level
    try:
        for argument in directive.arguments:
            for value in argument.values:
                if argument.key == "log-level":
                    output.set_level(value)
        environment.stabilize(nodes)
    finally:
        output.level = level


def restart(environment: Environment, directive: Directive) -> None:
    environment.restart(environment.node(directive.number(0)))


def send_snapshot(environment: Environment, directive: Directive) -> None:
    nodes = environment.named(directive.numbers())
    if len(nodes) != 2:
        raise TranscriptError("a snapshot is sent from one node to another one")
    sender, recipient = nodes
    message = Message(
        kind=MessageKind.SNAPSHOT,
        term=sender.raw_node.term,
        sender=sender.id,
        to=recipient.id,
        snapshot=sender.storage.snapshot(),
    )
    environment.messages.append(message)
    environment.output.write(describe.message(message))


def snapshot_unavailable(environment: Environment, directive: Directive) -> None:
    node = environment.node(directive.number(0))
    node.storage.is_snapshot_available = not parse_truth(directive.word(1))


def compact(environment: Environment, directive: Directive) -> None:
    node = environment.node(directive.number(0))
    node.storage.compact(directive.number(1))
    raft_log(environment, directive)


# ---- what is there ---------------------------------------------------------------------------


def status(environment: Environment, directive: Directive) -> None:
    raw_node = environment.node(directive.number(0)).raw_node
    if raw_node.is_leader:
        progresses = raw_node._raft.tracker.progress.values()
        lines = describe.progress_lines(progresses, raw_node.membership.learners)
        environment.output.write(lines)


def raft_state(environment: Environment, directive: Directive) -> None:
    for node in environment.nodes:
        raw_node = node.raw_node
        voter = "(Voter)" if raw_node.membership.is_voter(node.id) else "(Non-Voter)"
        environment.output.write(
            f"{node.id}: {describe.ROLES[raw_node.role]} {voter}"
            f" Term:{raw_node.term} Lead:{raw_node.leader}\n"
        )


def raft_log(environment: Environment, directive: Directive) -> None:
    storage = environment.node(directive.number(0)).storage
    first, last = storage.first_index(), storage.last_index()
    if last < first:
        text = f"log is empty: first index={first}, last index={last}"
    else:
        text = describe.entries(storage.entries(first, last + 1, _SIZE_UNLIMITED))
    environment.output.write(text)


def inspect(environment: Environment, directive: Directive) -> None:
    raw_node = environment.node(directive.number(0)).raw_node
    environment.output.write(
        f"quiesced={describe.truth(raw_node.is_quiesced)}"
        f" uncommitted={raw_node.uncommitted_bytes} unstable={raw_node.unstable_bytes}\n"
    )


def stored_snapshot(environment: Environment, directive: Directive) -> None:
    snapshot = environment.node(directive.number(0)).storage.stored_snapshot()
    text = f"{describe.snapshot(snapshot)} Data:{describe.quote(snapshot.data)}\n"
    environment.output.write(text)


def log_level(environment: Environment, directive: Directive) -> None:
    environment.output.set_level(directive.word(0))


def do_nothing(environment: Environment, directive: Directive) -> None:
    """Give a debugger a place to stop at."""
