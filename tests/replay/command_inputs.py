"""Interaction commands that add nodes and tell them what a driver or an operator would."""

from __future__ import annotations

import contextlib

from rafter_core.conf_change import ConfChange, Transition
from rafter_core.errors import RequestRefused
from tests.replay.changes import CommandError, parse_changes, parse_truth
from tests.replay.datadriven import Directive, TranscriptError, number
from tests.replay.environment import Environment, Node
from tests.replay.node_options import node_options

_TRANSITIONS = {
    "auto": Transition.AUTO,
    "implicit": Transition.JOINT_IMPLICIT,
    "explicit": Transition.JOINT_EXPLICIT,
}


def add_nodes(environment: Environment, directive: Directive) -> None:
    count = directive.number(0)
    options = node_options(directive.arguments[1:])
    if options.snapshot is not None and options.snapshot.index <= 1:
        raise CommandError("index must be specified as > 1 due to bootstrap")
    for _ in range(count):
        environment.add_node(options.config, options.snapshot)


def campaign(environment: Environment, directive: Directive) -> None:
    node = environment.node(directive.number(0))
    with contextlib.suppress(RequestRefused):
        node.raw_node.campaign()


def propose(environment: Environment, directive: Directive) -> None:
    node = environment.node(directive.number(0))
    if len(directive.arguments) != 2:
        raise TranscriptError("a proposal is one word")
    node.raw_node.propose(directive.word(1).encode())


def propose_conf_change(environment: Environment, directive: Directive) -> None:
    node = environment.node(directive.number(0))
    is_v1 = False
    transition = Transition.AUTO
    for key, value in directive.values():
        if key == "v1":
            is_v1 = parse_truth(value)
        elif key != "transition":
            raise CommandError(f"unknown command {key}")
        elif value not in _TRANSITIONS:
            raise CommandError(f"unknown transition {value}")
        else:
            transition = _TRANSITIONS[value]
    changes = parse_changes(directive.input)
    if is_v1 and (len(changes) != 1 or transition is not Transition.AUTO):
        raise CommandError("v1 conf change can only have one operation and no transition")
    node.raw_node.propose_conf_change(ConfChange(changes, transition, is_v1=is_v1))


def read_index(environment: Environment, directive: Directive) -> None:
    node = environment.node(directive.number(0))
    try:
        node.raw_node.read_index(directive.word(1).encode())
    except RequestRefused as error:
        # etcd drops such a read in silence; here it is ours to say why.
        raise CommandError(str(error)) from None


def tick(environment: Environment, directive: Directive) -> None:
    _ticks(environment.node(directive.number(0)), directive.number(1))


def tick_election(environment: Environment, directive: Directive) -> None:
    node = environment.node(directive.number(0))
    _ticks(node, node.config.election_timeout_ticks)


def tick_heartbeat(environment: Environment, directive: Directive) -> None:
    node = environment.node(directive.number(0))
    _ticks(node, node.config.heartbeat_ticks)


def _ticks(node: Node, count: int) -> None:
    for _ in range(count):
        node.raw_node.tick()


def set_election_timeout(environment: Environment, directive: Directive) -> None:
    node = environment.node(directive.number(0))
    # Private on purpose: only a transcript may choose what is drawn at random.
    node.raw_node._raft.election_timeout = number(directive.option("timeout"))


def transfer_leadership(environment: Environment, directive: Directive) -> None:
    leader = environment.node(number(directive.option("from")))
    target = environment.node(number(directive.option("to")))
    with contextlib.suppress(RequestRefused):
        leader.raw_node.transfer_leadership(target.id)


def forget_leader(environment: Environment, directive: Directive) -> None:
    node = environment.node(directive.number(0))
    with contextlib.suppress(RequestRefused):
        node.raw_node.forget_leader()


def report_unreachable(environment: Environment, directive: Directive) -> None:
    nodes = environment.named(directive.numbers())
    if len(nodes) != 2:
        raise CommandError(
            "must specify exactly two node indexes: node on which to report, and reported node"
        )
    node, reported = nodes
    node.raw_node.report_unreachable(reported.id)


def report_snapshot(environment: Environment, directive: Directive) -> None:
    node = environment.node(directive.number(0))
    reported = environment.node(directive.number(1))
    outcome = directive.word(2)
    if outcome not in {"success", "failure"}:
        raise TranscriptError(f"the outcome of a snapshot is success or failure, not {outcome}")
    node.raw_node.report_snapshot(reported.id, outcome == "success")
