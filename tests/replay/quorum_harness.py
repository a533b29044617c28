"""Runs quorum transcripts: what a majority, or two at once, make of acknowledgements and votes.

Each directive stands alone. The answer is checked against other ways to arrive at it; a way that
disagrees is printed, and no transcript expects that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rafter_core.entries import NUMBER_MAX
from rafter_core.quorum import majority_index, majority_vote, quorum_index, quorum_vote
from tests.replay import describe
from tests.replay.datadriven import Directive, TranscriptError, number

COMMANDS = frozenset({"committed", "vote"})

_UNKNOWN = 0
_VOTES = {"_": _UNKNOWN, "n": 1, "y": 2}


@dataclass(slots=True)
class _Question:
    """The arguments of a directive: voters, and one value for each distinct one of them."""

    voters: list[int] = field(default_factory=list)
    voters_other: list[int] = field(default_factory=list)
    is_joint: bool = False
    indexes: list[int] = field(default_factory=list)
    votes: list[int] = field(default_factory=list)

    @property
    def ids(self) -> list[int]:
        """Return every voter once, in the order of the values."""
        return list(dict.fromkeys(self.voters + self.voters_other))

    def known(self, values: Sequence[int]) -> dict[int, int]:
        """Return the values by voter. Those without one are absent, which is not the same as 0."""
        return {
            node: value for node, value in zip(self.ids, values, strict=True) if value != _UNKNOWN
        }


def run(directive: Directive) -> str:
    """Run one directive and return what it prints."""
    question = _parse(directive)
    values = question.votes if directive.command == "vote" else question.indexes
    if len(question.ids) != len(values):
        voters = " ".join(f"{node}:{{}}" for node in sorted(question.ids))
        return (
            "error: mismatched input (explicit or _) for voters "
            f"map[{voters}]: {describe.numbers(values)}"
        )
    if directive.command == "vote":
        return _vote(question)
    if directive.command == "committed":
        return _committed(question)
    raise TranscriptError(f"unknown command: {directive.command}")


def _parse(directive: Directive) -> _Question:
    question = _Question()
    for argument in directive.arguments:
        question.is_joint |= argument.key == "cfgj"
        if argument.key == "cfgj" and argument.values == ("zero",):
            continue
        for value in argument.values:
            match argument.key:
                case "cfg":
                    question.voters.append(number(value))
                case "cfgj":
                    question.voters_other.append(number(value))
                case "idx":
                    question.indexes.append(_index(value))
                case "votes":
                    if value not in _VOTES:
                        raise TranscriptError(f"unknown vote: {value}")
                    question.votes.append(_VOTES[value])
                case key:
                    raise TranscriptError(f"unknown arg {key}")
    return question


def _index(text: str) -> int:
    index = _UNKNOWN if text == "_" else number(text)
    if index == _UNKNOWN and text != "_":
        raise TranscriptError("cannot use 0 as idx")
    return index


# ---- votes -----------------------------------------------------------------------------------


def _vote(question: _Question) -> str:
    votes = {node: value == _VOTES["y"] for node, value in question.known(question.votes).items()}
    voters, other = sorted(set(question.voters)), sorted(set(question.voters_other))
    if not question.is_joint:
        return f"{describe.VOTE_RESULTS[majority_vote(voters, votes)]}\n"
    result = quorum_vote([voters, other], votes)
    swapped = quorum_vote([other, voters], votes)
    text = "" if swapped is result else f"{describe.VOTE_RESULTS[swapped]} <-- via symmetry\n"
    return f"{text}{describe.VOTE_RESULTS[result]}\n"


# ---- commit index ----------------------------------------------------------------------------


def _committed(question: _Question) -> str:
    known = question.known(question.indexes)
    voters, other = sorted(set(question.voters)), sorted(set(question.voters_other))
    if question.is_joint:
        index = quorum_index([_acknowledged(voters, known), _acknowledged(other, known)])
        swapped = quorum_index([_acknowledged(other, known), _acknowledged(voters, known)])
        checks = "" if swapped == index else f"{_infinite(swapped)} <-- via symmetry\n"
        return f"{_bars(question.ids, known)}{checks}{_infinite(index)}\n"
    index = majority_index(_acknowledged(voters, known))
    checks = _alternatives(voters, known, index) + _overlays(voters, known, index)
    return f"{_bars(voters, known)}{checks}{_infinite(index)}\n"


def _acknowledged(voters: Sequence[int], known: Mapping[int, int]) -> list[int]:
    return [known.get(node, 0) for node in voters]


def _infinite(index: int) -> str:
    return "∞" if index == NUMBER_MAX else str(index)


def _alternatives(voters: Sequence[int], known: Mapping[int, int], index: int) -> str:
    """Return the other ways to the same index that disagree."""
    half = _acknowledged(voters, known)
    ways = {
        "alternative computation": _by_counting(voters, known),
        "zero-joint quorum": quorum_index([half, []]),
        "self-joint quorum": quorum_index([half, half]),
    }
    return "".join(
        f"{_infinite(other)} <-- via {way}\n" for way, other in ways.items() if other != index
    )


def _by_counting(voters: Sequence[int], known: Mapping[int, int]) -> int:
    """Return the highest index that more than half of the voters have reached, by counting."""
    if not voters:
        return NUMBER_MAX
    reached = [
        index
        for index in known.values()
        if 2 * sum(known.get(node, 0) >= index for node in voters) > len(voters)
    ]
    return max(reached, default=0)


def _overlays(voters: Sequence[int], known: Mapping[int, int], index: int) -> str:
    """Return where lowering an index that is below the answer already would change the answer."""
    text = ""
    for node in voters:
        own = known.get(node, 0)
        if not 0 < own < index:
            continue
        for lowered, label in ((own - 1, own), (0, 0)):
            other = majority_index(_acknowledged(voters, {**known, node: lowered}))
            if other != index:
                text += f"{_infinite(other)} <-- overlaying {node}->{label}"
    return text


def _bars(voters: Sequence[int], known: Mapping[int, int]) -> str:
    """Return a picture of who is how far: the bar counts the voters that are strictly behind."""
    if not voters:
        return "<empty majority quorum>"
    count = len(voters)
    order = sorted(voters, key=lambda node: (known.get(node, 0), node))
    bars: dict[int, int] = {}
    for position, node in enumerate(order):
        previous = order[position - 1] if position else node
        is_ahead = known.get(node, 0) > known.get(previous, 0)
        bars[node] = position if is_ahead else bars.get(previous, 0)
    text = " " * count + "    idx\n"
    for node in sorted(voters):
        bar = f"{'x' * bars[node]}>".ljust(count + 1) if node in known else "?".ljust(count + 1)
        text += f"{bar} {known.get(node, 0):5d}    (id={node:x})\n"
    return text
