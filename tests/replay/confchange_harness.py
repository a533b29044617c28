"""Runs confchange transcripts: one membership after the other, made by the pure algebra."""

from __future__ import annotations

from rafter_core import changer
from rafter_core.changer import ChangeResult
from rafter_core.errors import ConfChangeError
from rafter_core.membership import Membership
from rafter_core.tracker import ProgressTracker
from tests.replay import describe
from tests.replay.changes import CommandError, parse_changes, parse_truth
from tests.replay.datadriven import Directive, TranscriptError

COMMANDS = frozenset({"simple", "enter-joint", "leave-joint"})


class ConfChangeHarness:
    """The membership of one transcript. The log grows by one entry with every directive."""

    def __init__(self) -> None:
        self._tracker = ProgressTracker(0, Membership(()), messages_max=10, bytes_max=1 << 40)
        self._last_index = 0

    def run(self, directive: Directive) -> str:
        """Run one directive and return what it prints. A failed one changes nothing."""
        try:
            result = self._result(directive)
        except (CommandError, ConfChangeError) as error:
            return str(error)
        else:
            self._tracker.switch(result, self._last_index)
        finally:
            self._last_index += 1
        tracker = self._tracker
        lines = describe.progress_lines(tracker.progress.values(), tracker.membership.learners)
        return f"{describe.membership(tracker.membership)}\n{lines}"

    def _result(self, directive: Directive) -> ChangeResult:
        membership = self._tracker.membership
        changes = parse_changes(directive.input)
        match directive.command:
            case "simple":
                return changer.simple(membership, changes)
            case "enter-joint":
                return changer.enter_joint(membership, _auto_leave(directive), changes)
            case "leave-joint":
                if changes:
                    raise CommandError("this command takes no input")
                return changer.leave_joint(membership)
            case _:
                raise CommandError("unknown command")


def _auto_leave(directive: Directive) -> bool:
    if not directive.arguments:
        return False
    try:
        return parse_truth(directive.option("autoleave"))
    except CommandError as error:
        raise TranscriptError(str(error)) from None
