from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rafter_kv.batch import Batch, pack_commands
from rafter_transport.payload import PayloadError, pack_item, unpack
from rafterd.requests import (
    RESULTS_BYTES_PER_ITEM,
    Reply,
    Request,
    Status,
    decode_reply,
    decode_request,
    encode_replies,
    encode_request,
    not_executed,
)

ORIGIN = (2, 1)
WORD_MAX = (1 << 64) - 1
words = st.integers(0, WORD_MAX)
junk = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), WORD_MAX)
    | st.binary(max_size=8)
    | st.text(max_size=4)
    | st.floats(),
    lambda inner: st.lists(inner, max_size=9),
    max_leaves=20,
)
command = st.one_of(
    st.tuples(st.just(b"SET"), st.binary(), st.binary()),
    st.tuples(st.just(b"GET"), st.binary()),
).map(list)


def request_of(*commands: list[bytes]) -> Request:
    positions = [at for at, one in enumerate(commands) if one[0] == b"SET"]
    all_writes = len(positions) == len(commands)
    batch = Batch(3, 9, 4, 2, list(commands), None if all_writes else positions)
    return Request(batch, 17, 2, None)


def over_the_wire(item: Any) -> Any:
    return unpack(pack_item(item))


def reply_of(results: list[Any]) -> Reply:
    return Reply(5, 1, Status.DONE, 0, results, True, 2, 7)


@given(st.lists(command, min_size=1, max_size=6))
def test_a_request_arrives_as_it_was_sent(commands: list[list[bytes]]) -> None:
    sent = request_of(*commands)
    got = decode_request(over_the_wire(encode_request(sent)), ORIGIN)
    assert [list(one) for one in got.batch.commands] == commands
    assert (got.ticket, got.attempt, got.origin) == (17, 2, ORIGIN)
    assert (got.batch.group, got.batch.session, got.batch.sequence) == (3, 9, 4)
    assert got.batch.acknowledged_below == 2
    assert got.batch.blob == sent.batch.blob
    assert got.batch.write_positions == sent.batch.write_positions
    assert (got.is_read, got.size_bytes) == (sent.is_read, sent.size_bytes)


@given(junk)
def test_junk_is_never_taken_for_a_request(item: Any) -> None:
    with pytest.raises(PayloadError):
        decode_request(item, ORIGIN)


@given(st.integers(0, 8), junk)
def test_a_request_with_one_field_replaced_is_decoded_or_refused(field: int, value: Any) -> None:
    item = encode_request(request_of([b"SET", b"k", b"v"], [b"GET", b"k"]))
    item[field] = value
    try:
        got = decode_request(over_the_wire(item), ORIGIN)
    except PayloadError:
        return
    assert got.batch.commands


@pytest.mark.parametrize(
    ("writes", "positions", "reads"),
    [
        ([[b"GET", b"k"]], None, []),  # a read among the writes
        ([], [], [[b"SET", b"k", b"v"]]),  # a write among the reads
        ([], None, []),  # no command
        ([], [], []),
        ([[b"SET", b"k"]], None, []),  # too few arguments
        ([[b"NONSENSE"]], None, []),
        ([[b"SET", b"k", b"v"]], [1], []),  # a position that is not there
        ([[b"SET", b"k", b"v"]], [0, 0], []),
        ([[b"SET", b"k", b"v"]], [True], [[b"GET", b"k"]]),
    ],
)
def test_batches_that_a_router_would_not_make_are_refused(
    writes: list[list[bytes]], positions: list[int] | None, reads: list[list[bytes]]
) -> None:
    item = [1, 1, 3, 9, 4, 2, pack_commands(writes), positions, pack_commands(reads)]
    with pytest.raises(PayloadError):
        decode_request(item, ORIGIN)


def test_an_answer_without_results_carries_what_is_known_of_the_leader() -> None:
    reply = not_executed(request_of([b"GET", b"k"]), Status.NOT_LEADER, 3, 8)
    assert reply == Reply(17, 2, Status.NOT_LEADER, 0, [], True, 3, 8)


@given(
    st.sampled_from(Status),
    st.lists(st.none() | st.binary() | st.integers(-9, 9) | st.just("+OK"), max_size=5),
    words,
)
def test_a_small_reply_is_one_item_and_arrives_as_it_was_sent(
    status: Status, results: list[Any], number: int
) -> None:
    sent = Reply(number, 1, status, 0, results, True, 2, number)
    items = encode_replies(sent)
    assert [decode_reply(over_the_wire(item)) for item in items] == [sent]


@pytest.mark.parametrize("shape", ["values", "arrays", "nested"])
def test_a_large_reply_is_cut_into_pieces_below_the_limit(shape: str) -> None:
    value = b"v" * (RESULTS_BYTES_PER_ITEM // 3)
    result: Any = {"values": value, "arrays": [value], "nested": [b"0", [value]]}[shape]
    replies = [decode_reply(item) for item in encode_replies(reply_of([result] * 7))]
    assert [len(reply.results) for reply in replies] in ([3, 3, 1], [2, 2, 2, 1])
    starts = [sum(len(r.results) for r in replies[:at]) for at in range(len(replies))]
    assert [reply.start for reply in replies] == starts
    assert [reply.is_last for reply in replies] == [False] * (len(replies) - 1) + [True]
    assert [result for reply in replies for result in reply.results] == [result] * 7


def test_a_result_above_the_limit_goes_alone() -> None:
    large = b"v" * (RESULTS_BYTES_PER_ITEM + 1)
    items = encode_replies(reply_of([b"a", large, b"b"]))
    assert [item[4] for item in items] == [[b"a"], [large], [b"b"]]
    assert len(encode_replies(reply_of([large]))) == 1


@given(junk)
def test_junk_is_never_taken_for_a_reply(item: Any) -> None:
    with pytest.raises(PayloadError):
        decode_reply(item)


@given(st.integers(0, 7), junk)
def test_a_reply_with_one_field_of_another_kind_is_refused(field: int, value: Any) -> None:
    item = encode_replies(reply_of([1]))[0]
    if type(value) is type(item[field]):
        return
    item[field] = value
    with pytest.raises(PayloadError):
        decode_reply(item)


@pytest.mark.parametrize(
    ("field", "value"), [(0, -1), (1, -1), (2, max(Status) + 1), (3, -1), (6, -1), (7, -1)]
)
def test_a_reply_with_a_number_out_of_range_is_refused(field: int, value: int) -> None:
    item = encode_replies(reply_of([1]))[0]
    item[field] = value
    with pytest.raises(PayloadError):
        decode_reply(item)
