"""The simulated network: streams as TCP has them, cuts, resets and hosts that vanish."""

from __future__ import annotations

import pytest

from tests.sim.kit import ADDRESS, Bench, Recorder
from tests.sim.transports import HIGH_BYTES, WINDOW_BYTES

NEAR, FAR = "127.0.1.1", ADDRESS[0]


def test_bytes_arrive_in_order_and_once() -> None:
    bench = Bench()
    dialled, accepted = bench.connected()
    for number in range(200):
        bench.write(dialled, b"%d," % number)
        bench.run(1e-4)
    bench.run()
    assert accepted.data == b"".join(b"%d," % number for number in range(200))
    bench.write(accepted, b"answer")
    bench.run()
    assert dialled.data == b"answer"


def test_a_close_delivers_what_was_written_and_then_the_end() -> None:
    bench = Bench()
    dialled, accepted = bench.connected()

    def last_words() -> None:
        dialled.transport.write(b"bye")
        dialled.transport.close()

    bench.near.call_soon(last_words)
    bench.run()
    assert (accepted.data, accepted.events[-1], accepted.error) == (b"bye", "lost", None)
    assert dialled.events == ["made", "lost"]


def test_nobody_listens_and_an_address_that_is_taken_are_errors() -> None:
    bench = Bench()
    dialling = bench.near.create_task(bench.near.create_connection(Recorder, *ADDRESS))
    bench.run()
    assert isinstance(dialling.exception(), ConnectionRefusedError)
    bench.connected()
    listening = bench.far.create_task(bench.far.create_server(Recorder, *ADDRESS))
    bench.run()
    assert isinstance(listening.exception(), OSError)


def test_a_cut_holds_up_one_way_until_it_is_healed() -> None:
    bench = Bench()
    dialled, accepted = bench.connected()
    bench.network.cut(NEAR, FAR)
    bench.write(dialled, b"one")
    bench.write(accepted, b"other")
    bench.run(1.0)
    assert (accepted.data, dialled.data) == (b"", b"other")
    bench.network.cut(NEAR, FAR)
    bench.network.heal(NEAR, FAR)
    bench.run()
    assert accepted.data == b"", "two cuts, and one is left"
    bench.network.heal(NEAR, FAR)
    bench.run()
    assert accepted.data == b"one"


def test_a_cut_that_lasts_breaks_the_connection() -> None:
    bench = Bench()
    dialled, accepted = bench.connected()
    bench.network.cut(NEAR, FAR)
    bench.write(dialled, b"lost")
    bench.run(30.0)
    assert isinstance(dialled.error, TimeoutError)
    bench.network.heal(NEAR, FAR)
    bench.run()
    assert accepted.data == b""
    assert accepted.events[-1] == "lost"


def test_a_connection_is_dialled_through_a_cut_once_it_is_healed() -> None:
    bench = Bench()
    bench.connected()
    bench.network.cut(NEAR, FAR)
    dialled = Recorder()
    dialling = bench.near.create_task(bench.near.create_connection(lambda: dialled, *ADDRESS))
    bench.run(1.0)
    assert not dialling.done()
    bench.network.heal(NEAR, FAR)
    bench.run()
    assert dialled.events == ["made"]


def test_the_end_of_a_process_is_heard_and_what_it_had_sent_arrives() -> None:
    bench = Bench()
    dialled, accepted = bench.connected()
    bench.write(dialled, b"sent")
    bench.run(5e-4)
    bench.network.process_ended(bench.near)
    bench.near.kill()
    bench.run()
    assert accepted.data == b"sent"
    assert isinstance(accepted.error, ConnectionResetError)
    assert dialled.events == ["made"], "a process that is no more hears nothing"


def test_a_host_that_vanishes_is_not_heard_of_until_it_is_back() -> None:
    bench = Bench()
    dialled, _ = bench.connected()
    bench.network.host_down(FAR)
    bench.network.process_ended(bench.far)
    bench.far.kill()
    bench.run(1.0)
    assert dialled.events == ["made"]
    bench.network.host_up(FAR)
    bench.run()
    assert isinstance(dialled.error, ConnectionResetError)


def test_a_host_that_is_back_is_reached_by_who_dialled_while_it_was_away() -> None:
    """Kernels ask again. Without that a dialler waited for its own timeout, after five seconds."""
    bench = Bench()
    bench.connected()
    bench.network.host_down(FAR)
    dialled = Recorder()
    dialling = bench.near.create_task(bench.near.create_connection(lambda: dialled, *ADDRESS))
    bench.run(2.0)
    assert not dialling.done()
    bench.network.host_up(FAR)
    bench.run(1.5)
    assert dialled.events == ["made"]


def test_a_connection_that_breaks_before_it_is_had_is_lost_and_not_forgotten() -> None:
    """The dialler waits for the end of what it was given."""
    bench = Bench()
    bench.connected()
    dialled = Recorder()
    dialling = bench.near.create_task(bench.near.create_connection(lambda: dialled, *ADDRESS))
    while len(bench.far.transports) < 2:
        bench.run(1e-4)
    bench.network.break_some(FAR, 1.0)
    bench.run()
    assert dialling.done()
    assert dialled.events == ["made", "lost"]


def test_a_reader_who_does_not_read_holds_up_the_writer() -> None:
    bench = Bench()
    dialled, accepted = bench.connected()
    bench.far.call_soon(accepted.transport.pause_reading)
    bench.run()
    data = bytes(WINDOW_BYTES + 2 * HIGH_BYTES)
    bench.write(dialled, data)
    bench.run()
    assert dialled.events == ["made", "pause"]
    assert dialled.transport.get_write_buffer_size() == 2 * HIGH_BYTES
    bench.far.call_soon(accepted.transport.resume_reading)
    bench.run()
    assert accepted.data == data
    assert dialled.events == ["made", "pause", "resume"]


def test_what_arrives_may_be_read_in_pieces() -> None:
    bench = Bench()
    dialled, accepted = bench.connected()
    bench.network.split_chance = 1.0
    bench.write(dialled, b"whole")
    bench.run()
    assert (accepted.data, accepted.parts) == (b"whole", 2)


def test_two_processes_of_a_host_are_connected_by_a_pair() -> None:
    bench = Bench()
    other = bench.process(NEAR)
    ends = bench.network.pair_ends(NEAR)
    recorders = Recorder(), Recorder()
    for loop, end, recorder in zip((bench.near, other), ends, recorders, strict=True):
        loop.create_task(loop.connect_accepted_socket([recorder].pop, end))
    bench.run()
    bench.write(recorders[0], b"over")
    bench.run()
    assert recorders[1].data == b"over"


@pytest.mark.parametrize("seed", range(5))
def test_delays_are_within_their_bounds_and_nothing_is_overtaken(seed: int) -> None:
    bench = Bench(seed)
    dialled, accepted = bench.connected()
    bench.network.slowness = [10.0, 2.0]
    bench.write(dialled, b"a")
    bench.run(1e-3)
    bench.network.slowness = [0.01]
    bench.write(dialled, b"b")
    bench.run(5e-3)
    assert accepted.data == b""
    bench.run()
    assert accepted.data == b"ab"


def test_of_several_delays_the_largest_counts() -> None:
    """Multiplied, four of them would hold up a message for minutes, and no cluster comes back."""
    bench = Bench()
    dialled, accepted = bench.connected()
    bench.network.slowness = [10.0] * 4
    bench.write(dialled, b"a")
    bench.run(0.03)
    assert accepted.data == b"a"
