"""The map's values and their encoding."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rafter_core import DecodeError
from rafter_transport import NodeInfo
from rafterd.cluster_map import (
    Announce,
    Command,
    Found,
    GroupRecord,
    MapState,
    NodeRecord,
    Phase,
    Progress,
    Replace,
    Replacement,
    foundation,
    pack_command,
    pack_image,
    record_of,
    unpack_command,
    unpack_image,
)
from rafterd.config import load_config
from tests.transport.support import make_hello

THREE = "1@127.0.0.1:17379,2@127.0.0.1:17479,3@127.0.0.1:17579"
ports = st.integers(0, 65535)
hosts = st.text(max_size=20)
records = st.builds(
    NodeRecord,
    node=st.integers(1, 65535),
    incarnation=st.integers(0, (1 << 64) - 1),
    host=hosts,
    base_port=ports,
    shards=st.integers(0, 1024),
    client_host=hosts,
    client_port=ports,
)
groups = st.builds(
    GroupRecord,
    group=st.integers(1, 16383),
    first_slot=st.integers(0, 16383),
    last_slot=st.integers(0, 16383),
    members=st.lists(st.integers(1, 65535), max_size=5),
)
words = st.integers(0, (1 << 64) - 1)
node_ids = st.integers(1, 65535)
group_lists = st.lists(st.integers(0, 16383), max_size=4)
commands = (
    st.builds(Announce, records)
    | st.builds(Found, st.lists(records, max_size=4), st.lists(groups, max_size=4))
    | st.builds(Replace, node_ids, words)
    | st.builds(Progress, node_ids, words, st.sampled_from(Phase), group_lists)
)
states = st.builds(
    MapState,
    version=st.integers(0, 1 << 60),
    nodes=st.dictionaries(st.integers(1, 9), records).map(
        lambda found: {node: replaced(record, node) for node, record in sorted(found.items())}
    ),
    groups=st.lists(groups, max_size=4).map(
        lambda found: {record.group: record for record in found}
    ),
    replacements=st.lists(
        st.builds(
            Replacement, node_ids, words, st.sampled_from(Phase), group_lists, st.integers(0, 9)
        ),
        max_size=3,
    ).map(lambda found: {item.node: item for item in found}),
)


def replaced(record: NodeRecord, node: int) -> NodeRecord:
    return NodeRecord(
        node, record.incarnation, record.host, record.base_port, record.shards,
        record.client_host, record.client_port,
    )  # fmt: skip


@given(commands)
def test_a_command_is_read_as_it_was_written(command: Command) -> None:
    assert unpack_command(pack_command(command)) == command


@given(states)
def test_a_map_comes_back_from_its_image(state: MapState) -> None:
    assert unpack_image(pack_image(state)) == state


@given(st.binary(max_size=60))
def test_any_bytes_are_no_command_and_no_image(data: bytes) -> None:
    for decode in (unpack_command, unpack_image):
        with pytest.raises(DecodeError):
            decode(data)


RECORD = [1, 5, "host", 17379, 1, "client", 7379]


@pytest.mark.parametrize(
    "item",
    [
        [2, ["announce", RECORD]],
        [1, ["something later", RECORD]],
        [1, ["announce", [*RECORD, "more"]]],
        [1, ["announce", RECORD, 1]],
        [1, ["announce", [0, *RECORD[1:]]]],
        [1, ["announce", [1, -1, *RECORD[2:]]]],
        [1, ["announce", [1, 5, b"host", *RECORD[3:]]]],
        [1, ["announce", [1, 5, "h" * 256, *RECORD[3:]]]],
        [1, ["announce", [1, 5, "host", 65536]]],
        [1, ["found", [RECORD]]],
        [1, ["found", [RECORD], [[1, 0, 16384, [1]]]]],
        [1, ["replace", 0, 5]],
        [1, ["progress", 1, 5, 3, [1]]],
        [1, ["progress", 1, 5, 1, [16384]]],
        ["announce", RECORD],
    ],
)
def test_a_command_of_another_shape_is_refused(item: Any) -> None:
    assert unpack_command(msgpack.packb([1, ["announce", RECORD]])).record.node == 1  # type: ignore[union-attr]
    with pytest.raises(DecodeError, match="a command for the cluster's map cannot be read"):
        unpack_command(msgpack.packb(item))


def test_the_foundation_is_the_configuration() -> None:
    overrides = {"cluster.initial": THREE, "cluster.groups": "3", "cluster.replication": "2"}
    found = foundation(load_config(overrides=overrides).config)
    assert found.nodes == [
        NodeRecord(1, 0, "127.0.0.1", 17379),
        NodeRecord(2, 0, "127.0.0.1", 17479),
        NodeRecord(3, 0, "127.0.0.1", 17579),
    ]
    assert found.groups == [
        GroupRecord(1, 0, 5460, [2, 3]),
        GroupRecord(2, 5461, 10921, [3, 1]),
        GroupRecord(3, 10922, 16383, [1, 2]),
    ]


def test_what_is_not_known_of_a_node_is_not_told_to_the_registry() -> None:
    assert NodeRecord(1, 0, "host", 5).info() == NodeInfo(1, "host", 5)
    assert NodeRecord(1, 7, "host", 5, 2, "c", 6).info() == NodeInfo(1, "host", 5, 2, 7, "c", 6)


def test_a_record_follows_what_the_node_says_and_keeps_the_rest() -> None:
    known = NodeRecord(2, 0, "seed", 17379)
    older = record_of(make_hello(2, shards=3, version_max=2), known)
    assert older == NodeRecord(2, 102, "seed", 17379, 3, "127.0.0.1", 7379)
    hello = make_hello(2, version_max=3, peer_host="moved", peer_port=9)
    assert record_of(hello, older) == NodeRecord(2, 102, "moved", 9, 1, "127.0.0.1", 7379)
