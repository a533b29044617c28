"""Cycles among the operations on append lists, after Elle: no order can have one.

A list shows the order of its appends. From the lists of one partition follow edges between
operations, each saying that one came before the other in any order that explains them: an append
before that of the next token, and before the reads that end with its token; a read before the
append of the token after its last. Real time adds edges. Where edges make a cycle, there is no
order.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import pairwise

from tests.linear.findings import Violation
from tests.linear.history import History, Operation, Outcome
from tests.linear.lists import AppendedList, appended_lists

Graph = dict[int, dict[int, str]]
"""For each operation, by number, those that come after it, with the reason."""


def cycles(history: History) -> list[Violation]:
    """Report lists that were read in two orders, and cycles of operations on one partition's lists.

    One cycle is reported of each set of operations that all lie on cycles together.
    """
    partitions: dict[str, list[AppendedList]] = {}
    for appended in appended_lists(history):
        partitions.setdefault(appended.key, []).append(appended)
    found: list[Violation] = []
    for key, lists in partitions.items():
        two_orders = [violation for appended in lists for violation in _two_orders(appended)]
        found += two_orders or _cycles_of(key, lists)
    return found


def _two_orders(appended: AppendedList) -> Iterator[Violation]:
    longest_read, longest = max(appended.reads, key=lambda pair: len(pair[1]), default=(None, b""))
    for read, value in appended.reads:
        if not longest.startswith(value):
            yield Violation(
                "cycle", f"list {appended.name} was read in two orders: {read} and {longest_read}"
            )


def _cycles_of(key: str, lists: list[AppendedList]) -> Iterator[Violation]:
    graph = _PartitionGraph()
    for appended in lists:
        graph.add_list(appended)
    graph.add_real_time()
    for component in strong_components(graph.edges):
        if len(component) > 1:
            steps = [
                f"  {graph.operations[first]} is before ({graph.edges[first][second]})"
                for first, second in shortest_cycle(graph.edges, component)
            ]
            yield Violation("cycle", "\n".join([f"partition {key!r}, round and round:", *steps]))


class _PartitionGraph:
    def __init__(self) -> None:
        self.operations: list[Operation] = []
        self.edges: Graph = {}
        self._numbers: dict[int, int] = {}

    def add_list(self, appended: AppendedList) -> None:
        longest = max((value for _, value in appended.reads), key=len, default=b"")
        tokens = appended.split(longest)
        if tokens is None:
            return  # `cheap.phantom_reads` reports it.
        chain = [self._number(appended.appends[token]) for token in tokens]
        later = [
            self._number(append)
            for token, append in appended.appends.items()
            if append.outcome is Outcome.OK and token not in set(tokens)
        ]
        for first, second in pairwise(chain):
            self._add_edge(first, second, "appended next")
        count_of_size = {0: 0}
        size = 0
        for count, token in enumerate(tokens, 1):
            size += len(token)
            count_of_size[size] = count
        for read, value in appended.reads:
            if len(value) not in count_of_size:
                continue  # Half a token; `cheap.phantom_reads` reports it.
            number, seen_count = self._number(read), count_of_size[len(value)]
            if seen_count:
                self._add_edge(chain[seen_count - 1], number, "which read its token")
            for append in chain[seen_count : seen_count + 1] or later:
                self._add_edge(number, append, "which it did not see")

    def add_real_time(self) -> None:
        """Add edges from which all of real time follows: to each operation from the last ended."""
        moments = [(2 * one.invoked, number) for number, one in enumerate(self.operations)]
        moments += [
            (2 * one.completed + 1, number)
            for number, one in enumerate(self.operations)
            if one.completed is not None
        ]
        # Those that have ended, except the ones that all others which follow them come after too.
        last_ended: list[int] = []
        for moment, number in sorted(moments):
            if moment % 2 == 0:
                for ended in last_ended:
                    self._add_edge(ended, number, "which began after its end")
            else:
                invoked = self.operations[number].invoked
                last_ended = [
                    ended for ended in last_ended if not self._ended_before(ended, invoked)
                ]
                last_ended.append(number)

    def _ended_before(self, number: int, moment: int) -> bool:
        completed = self.operations[number].completed
        return completed is not None and completed < moment

    def _number(self, operation: Operation) -> int:
        number = self._numbers.setdefault(id(operation), len(self.operations))
        if number == len(self.operations):
            self.operations.append(operation)
            self.edges[number] = {}
        return number

    def _add_edge(self, first: int, second: int, reason: str) -> None:
        if first != second:
            self.edges[first].setdefault(second, reason)


def strong_components(edges: Graph) -> list[list[int]]:
    """Return the sets of nodes that can reach each other, by Tarjan, without recursion."""
    order: dict[int, int] = {}
    lowest: dict[int, int] = {}
    stack: list[int] = []
    on_stack: set[int] = set()
    components = []
    for root in edges:
        if root in order:
            continue
        walk = [(root, iter(edges[root]))]
        order[root] = lowest[root] = len(order)
        stack.append(root)
        on_stack.add(root)
        while walk:
            node, following = walk[-1]
            for other in following:
                if other not in order:
                    order[other] = lowest[other] = len(order)
                    stack.append(other)
                    on_stack.add(other)
                    walk.append((other, iter(edges[other])))
                    break
                if other in on_stack:
                    lowest[node] = min(lowest[node], order[other])
            else:
                walk.pop()
                if walk:
                    parent = walk[-1][0]
                    lowest[parent] = min(lowest[parent], lowest[node])
                if lowest[node] == order[node]:
                    components.append(_pop_until(stack, node))
                    on_stack.difference_update(components[-1])
    return components


def _pop_until(stack: list[int], node: int) -> list[int]:
    popped = [stack.pop()]
    while popped[-1] != node:
        popped.append(stack.pop())
    return popped


def shortest_cycle(edges: Graph, component: list[int]) -> list[tuple[int, int]]:
    """Return the edges of a shortest cycle through a component's first node."""
    start, allowed = component[0], set(component)
    came_from: dict[int, int] = {}
    pending = deque([start])
    while start not in came_from:
        node = pending.popleft()
        for other in edges[node]:
            if other in allowed and other not in came_from:
                came_from[other] = node
                pending.append(other)
    path: list[tuple[int, int]] = []
    node = start
    while not path or node != start:
        path.append((came_from[node], node))
        node = came_from[node]
    return path[::-1]
