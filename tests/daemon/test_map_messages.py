"""What shards tell each other about the map: read as it was written, and nothing else is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rafter_core import DecodeError
from rafter_transport.payload import pack_item, unpack
from rafterd.cluster_map import MapState, Phase, Progress, Replacement
from rafterd.map_messages import (
    Asked,
    Message,
    Publication,
    ReplaceAnswer,
    message_from_wire,
    publication_of,
)
from tests.daemon.test_cluster_map import RECORD, group_lists, node_ids, records, words

replacements = st.builds(
    Replacement, node_ids, words, st.sampled_from(Phase), group_lists, st.integers(0, 9)
)
messages = (
    st.builds(Publication, words, st.lists(records, max_size=3), st.lists(replacements, max_size=2))
    | st.builds(Progress, node_ids, words, st.sampled_from(Phase), group_lists)
    | st.builds(Asked, words, node_ids, words)
    | st.builds(ReplaceAnswer, words, st.none() | st.text(max_size=20))
)


@given(messages)
def test_a_message_is_read_as_it_was_written(message: Message) -> None:
    assert message_from_wire(unpack(pack_item(message))) == message


@pytest.mark.parametrize(
    "item",
    [
        5, [], ["map"], ["map", 1], ["map", -1, []], ["map", 1.0, []], ["map", True, []],
        ["map", 1, [[1]]], ["map", 1, [], [], 2], ["other", 1], [1, []], ["replace", 1, 0, 5],
        ["replaced", 1, 5], ["replaced", 1, "x" * 1025], ["progress", 1, 5, 1, ["x"]],
    ],
)  # fmt: skip
def test_what_is_no_message_is_refused(item: object) -> None:
    assert isinstance(message_from_wire(["map", 1, [RECORD]]), Publication)
    with pytest.raises(DecodeError, match="this is no message about the cluster's map"):
        message_from_wire(item)


def test_a_publication_has_what_registries_and_replacements_are_made_of() -> None:
    publication = message_from_wire(["map", 1, [RECORD], [[2, 5, 1, [0], 0]]])
    assert isinstance(publication, Publication)
    (record,) = publication.nodes
    (item,) = publication.replacements
    assert item == Replacement(2, 5, Phase.LEAVING, [0])
    assert publication_of(MapState(1, {1: record}, {}, {2: item})) == publication
