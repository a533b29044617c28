from rafter_kv.connection import RespConnection
from rafter_kv.reply_slot import Gather, ReplySlot, combine_lists, combine_ok, combine_sum, deliver
from rafter_kv.results import Result
from tests.kv.fake_front_end import FakeFrontEnd, fill


def slot_of_two() -> ReplySlot:
    # A connection that was never made: what completes finds nobody, as after a lost one.
    return ReplySlot(RespConnection(FakeFrontEnd()), 2, 0)


def test_a_gather_fills_its_parent_when_the_last_part_arrives() -> None:
    slot = slot_of_two()
    gather = Gather(slot, 1, 3, combine_sum)
    fill(gather, 2, 5)
    fill(gather, 0, 1)
    assert (slot.waiting, slot.replies) == (2, [None, None])
    fill(gather, 1, 2)
    assert (slot.waiting, slot.replies) == (1, [None, 8])


def test_results_are_delivered_to_their_slots_and_parts_alike() -> None:
    one, other = slot_of_two(), slot_of_two()
    gather = Gather(one, 1, 2, combine_sum)
    deliver((other, gather, one, gather), (1, 0, 0, 1), (b"b", 1, b"a", 2))
    assert (one.waiting, one.replies) == (0, [b"a", 3])
    assert (other.waiting, other.replies) == (1, [None, b"b"])


def test_an_error_in_one_part_is_the_result_of_all() -> None:
    slot = slot_of_two()
    gather = Gather(slot, 0, 3, combine_lists)
    fill(gather, 0, [b"a"])
    fill(gather, 2, "-ERR second")
    fill(gather, 1, "-ERR first")
    assert slot.replies[0] == "-ERR first"


def test_lists_join_in_the_order_of_the_parts() -> None:
    parts: list[Result] = [[b"a"], [], [b"b", b"c"]]
    assert combine_lists(parts) == [b"a", b"b", b"c"]


def test_ok_of_all_is_ok() -> None:
    assert combine_ok(["+OK", "+OK"]) == "+OK"


def test_results_for_a_lost_connection_are_dropped() -> None:
    slot = slot_of_two()
    fill(slot, 0, "+OK")
    fill(slot, 1, "+OK")
    assert slot.waiting == 0
