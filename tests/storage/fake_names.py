"""The names of the fake file system: directories, paths, and which of them survive a crash.

The rules are told in fake_disk.py.
"""

import errno
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.storage.fake_disk import CrashMode, File, Node, drawing

__all__ = ["Directory", "NameOperation", "Place", "Tree", "path_error"]

_NAME_BYTES_MAX = 255


def path_error(number: int, path: Path) -> OSError:
    """Return the error that a system call about ``path`` ends with."""
    return OSError(number, os.strerror(number), str(path))


def _names_on(path: Path) -> tuple[str, ...]:
    """Return the names on the way from the root to a path."""
    parts = path.parts
    if parts[:1] != ("/",) or ".." in parts:
        raise ValueError(f"the fake wants absolute paths without '..', not {path}")
    return parts[1:]


def _is_too_long(name: str) -> bool:
    return len(os.fsencode(name)) > _NAME_BYTES_MAX


class Directory(Node):
    """A directory: its names as they are, and as they are durable."""

    __slots__ = ("durable", "entries")

    def __init__(self, entries: dict[str, Node] | None = None) -> None:
        super().__init__()
        self.entries: dict[str, Node] = entries or {}
        self.durable: dict[str, Node] = dict(self.entries)


class NameOperation(NamedTuple):
    """A pending change of names, which survives as a whole or not at all.

    ``changes`` are names with what they stand for afterwards, None for nothing. It becomes durable
    with a sync of ``home``, and survives only if all earlier operations on its names did, and on
    the names in ``needs``; there, None stands for all names of the directory.
    """

    home: Directory
    changes: tuple[tuple[Directory, str, Node | None], ...]
    needs: tuple[tuple[Directory, str | None], ...] = ()

    def apply_durably(self) -> None:
        for directory, name, node in self.changes:
            _set(directory.durable, name, node)


class Place(NamedTuple):
    """Where a name stands: in ``directory``; ``way`` has the names that lead there."""

    directory: Directory
    name: str
    way: tuple[tuple[Directory, str | None], ...]

    def node(self) -> Node | None:
        return self.directory.entries.get(self.name)


class Tree:
    """The directories and files below a root, with the pending operations on names."""

    def __init__(self, root: Directory | None = None) -> None:
        self.root = root or Directory()
        self._pending: list[NameOperation] = []

    def place(self, path: Path) -> Place:
        """Return where a path leads; only its last name may stand for nothing."""
        names = _names_on(path)
        if not names:
            raise path_error(errno.EBUSY, path)
        *above, name = names
        directory = self.root
        way: list[tuple[Directory, str | None]] = []
        for each in above:
            way.append((directory, each))
            node = directory.entries.get(each)
            if not isinstance(node, Directory):
                raise path_error(errno.ENOENT if node is None else errno.ENOTDIR, path)
            directory = node
        if _is_too_long(name):
            raise path_error(errno.ENAMETOOLONG, path)
        return Place(directory, name, tuple(way))

    def node(self, path: Path) -> Node:
        """Return what stands at a path; ENOENT if there is nothing."""
        found = self._look_up(path)
        if isinstance(found, int):
            raise path_error(found, path)
        return found

    def find(self, path: Path) -> Node | None:
        """Return what stands at a path, or None."""
        found = self._look_up(path)
        if not isinstance(found, int):
            return found
        if found == errno.ENAMETOOLONG:
            raise path_error(found, path)
        return None

    def _look_up(self, path: Path) -> Node | int:
        """Return what stands at a path, or the number of the error. All tests spend time here."""
        node: Node = self.root
        for name in _names_on(path):
            if not isinstance(node, Directory):
                return errno.ENOTDIR
            child = node.entries.get(name)
            if child is None:
                return errno.ENAMETOOLONG if _is_too_long(name) else errno.ENOENT
            node = child
        return node

    def file(self, path: Path) -> File:
        """Return the file at a path; EISDIR if it is a directory."""
        node = self.node(path)
        if not isinstance(node, File):
            raise path_error(errno.EISDIR, path)
        return node

    def directory(self, path: Path) -> Directory:
        """Return the directory at a path; ENOTDIR if it is a file."""
        node = self.node(path)
        if not isinstance(node, Directory):
            raise path_error(errno.ENOTDIR, path)
        return node

    def walk(self, path: Path) -> Iterator[tuple[str, Node]]:
        """Yield all that stands below a path, each with its name from there, in a path's order."""
        above: list[tuple[str, Node]] = [("", self.node(path))]
        while above:
            name, node = above.pop()
            if name:
                yield name, node
            if isinstance(node, Directory):
                prefix = name and f"{name}/"
                children = sorted(node.entries.items(), reverse=True)
                above += [(prefix + child_name, child) for child_name, child in children]

    def files(self) -> list[File]:
        """Return every file that has a name, once each."""
        found: dict[File, None] = {}
        pending: list[Node] = [self.root]
        while pending:
            node = pending.pop()
            if isinstance(node, File):
                found[node] = None
            elif isinstance(node, Directory):
                pending.extend(reversed(node.entries.values()))
        return list(found)

    def apply(self, operation: NameOperation) -> None:
        """Change names."""
        for directory, name, node in operation.changes:
            before = directory.entries.get(name)
            if before is not None:
                before.names_count -= 1
            if node is not None:
                node.names_count += 1
            _set(directory.entries, name, node)
        self._pending.append(operation)

    def sync(self, home: Directory) -> None:
        """Make the pending operations of a directory durable, and those they rest on."""
        needed: set[tuple[Directory, str | None]] = set()
        durable: list[NameOperation] = []
        pending: list[NameOperation] = []
        for operation in reversed(self._pending):
            is_needed = operation.home is home or any(
                (directory, name) in needed or (directory, None) in needed
                for directory, name, _ in operation.changes
            )
            if is_needed:
                needed.update((directory, name) for directory, name, _ in operation.changes)
                needed.update(operation.needs)
            (durable if is_needed else pending).append(operation)
        for operation in reversed(durable):
            operation.apply_durably()
        self._pending = pending[::-1]

    def settle(self) -> None:
        """Make everything durable: bytes and names."""
        for operation in self._pending:
            operation.apply_durably()
        self._pending = []
        for file in self.files():
            file.sync()

    def survivor(self, mode: CrashMode, draw: random.Random | None) -> "Tree":
        """Return the tree that a crash leaves, with nothing pending."""
        names: dict[Directory, dict[str, Node]] = {}
        if mode is CrashMode.REORDERED:
            for operation in self._drawn_operations(drawing(draw)):
                for directory, name, node in operation.changes:
                    _set(names.setdefault(directory, dict(directory.durable)), name, node)
        is_new = mode not in {CrashMode.LOST, CrashMode.REORDERED}
        files: dict[File, File] = {}

        def copied(node: Node) -> Node:
            if isinstance(node, File):
                copy: Node | None = files.get(node)
                if copy is None:
                    copy = files[node] = node.survivor(mode, draw)
            else:
                assert isinstance(node, Directory)
                found = names.get(node, node.entries if is_new else node.durable)
                copy = Directory({name: copied(child) for name, child in found.items()})
            copy.names_count += 1
            return copy

        root = copied(self.root)
        assert isinstance(root, Directory)
        return Tree(root)

    def _drawn_operations(self, draw: random.Random) -> list[NameOperation]:
        chance = draw.random()
        survivors = []
        lost: set[tuple[Directory, str | None]] = set()
        for operation in self._pending:
            is_possible = not any(
                (directory, name) in lost for directory, name, _ in operation.changes
            ) and lost.isdisjoint(operation.needs)
            if is_possible and draw.random() < chance:
                survivors.append(operation)
                continue
            for directory, name, _ in operation.changes:
                lost.add((directory, name))
                lost.add((directory, None))
        return survivors


def _set(names: dict[str, Node], name: str, node: Node | None) -> None:
    if node is None:
        names.pop(name, None)
    else:
        names[name] = node
