"""rafter-cli as a process: its output byte for byte, and each of its exit codes."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import warm
from tests.kv.resp_server import Fault, RespServer, array, bulk, closed_endpoint, encode
from tests.kv.tls_kit import server_tls
from tests.transport.tls_support import Authority

BINARY = b"\x00\xff\r\n\x1b[31m" + bytes(range(256))
STATUS = {
    "nodes": [{"id": 1, "address": "10.0.0.1:17379", "client": "10.0.0.1:7379", "state": "up"}],
    "shards": [{"node": 1, "shard": 0, "state": "serving", "cpu_seconds": 1.25}],
    "groups": [
        {"group": 1, "slots": "0-16383", "members": [1], "leader": 1, "term": 7, "replicas": []}
    ],
}


@pytest.fixture
def server() -> Iterator[RespServer]:
    with RespServer() as running:
        yield running


def environment(endpoints: str = "", **more: str) -> dict[str, str]:
    """Return an environment without whatever the machine's own says about terminals."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    root = str(Path(__file__).parents[2])
    result = {**kept, "PYTHONPATH": root, "LANG": "C.UTF-8", "TERM": "xterm-256color", **more}
    return {**result, "RAFTERCLI_ENDPOINTS": endpoints} if endpoints else result


def run(
    server: RespServer | str, *arguments: str | bytes, stdin: bytes = b"", **more: str
) -> subprocess.CompletedProcess[bytes]:
    """Run rafter-cli against `server`."""
    endpoints = server if isinstance(server, str) else str(server.endpoint)
    surroundings = environment(endpoints, **more)
    return warm.run("rafter_kv.cli", *arguments, stdin=stdin, environment=surroundings)


def run_on_terminal(server: RespServer, *arguments: str, **more: str) -> tuple[int, str]:
    """Run rafter-cli with its output on a pseudo terminal; return exit code and output."""
    ours, theirs = pty.openpty()
    surroundings = environment(str(server.endpoint), COLUMNS="200", **more)
    process = warm.start("rafter_kv.cli", *arguments, stdout=theirs, environment=surroundings)
    os.close(theirs)
    output = b""
    while True:
        try:
            data = os.read(ours, 65536)
        except OSError:  # the other side is closed
            break
        if not data:
            break
        output += data
    os.close(ours)
    return process.wait(timeout=60), output.decode().replace("\r\n", "\n")


# ---- get and put -----------------------------------------------------------------------------


def test_a_value_passes_through_put_and_get_byte_for_byte(server: RespServer) -> None:
    for flags in (("-",), ("-x",), ("-x", "-")):
        put = run(server, "put", "k", *flags, stdin=BINARY)
        assert (put.returncode, put.stdout, put.stderr) == (0, b"OK\n", b"")
        assert server.values.pop(b"k") == BINARY
    server.values[b"k"] = BINARY
    got = run(server, "get", "k")
    assert (got.returncode, got.stdout) == (0, BINARY)


def test_keys_and_values_need_not_be_text(server: RespServer) -> None:
    assert run(server, "put", b"\xff\xfe", b"\x80").returncode == 0
    assert server.values == {b"\xff\xfe": b"\x80"}
    got = run(server, "get", b"\xff\xfe", "-o", "json")
    assert json.loads(got.stdout) == {"key": {"base64": "//4="}, "value": {"base64": "gA=="}}


def test_a_terminal_gets_a_newline_after_the_value_and_nothing_else(server: RespServer) -> None:
    server.values[b"k"] = b"v"
    assert run_on_terminal(server, "get", "k") == (0, "v\n")
    assert run(server, "get", "k").stdout == b"v"


def test_get_of_an_absent_key_exits_3_in_every_format(server: RespServer) -> None:
    for form in ("plain", "table"):
        got = run(server, "get", "absent", "-o", form)
        assert (got.returncode, got.stdout) == (3, b"")
        assert got.stderr == b"Error: key not found: absent\n"
    got = run(server, "get", "absent", "-o", "json")
    assert (got.returncode, json.loads(got.stdout)) == (3, {"key": "absent", "value": None})


def test_an_empty_value_is_not_an_absent_one(server: RespServer) -> None:
    assert run(server, "put", "k", "").returncode == 0
    got = run(server, "get", "k")
    assert (got.returncode, got.stdout) == (0, b"")


def test_put_whose_condition_does_not_hold_exits_4(server: RespServer) -> None:
    server.values[b"there"] = b"old"
    nx = run(server, "put", "there", "new", "--nx")
    assert (nx.returncode, nx.stdout) == (4, b"")
    assert nx.stderr == b"Error: not stored: there exists\n"
    xx = run(server, "put", "absent", "new", "--xx", "-o", "json")
    assert (xx.returncode, json.loads(xx.stdout)) == (4, {"key": "absent", "done": False})
    assert server.values == {b"there": b"old"}


def test_put_passes_the_time_to_live_on_in_milliseconds(server: RespServer) -> None:
    assert run(server, "put", "k", "v", "--ttl", "1.5").returncode == 0
    assert server.commands[-1] == [b"SET", b"k", b"v", b"PX", b"1500"]


# ---- del, incr, scan -------------------------------------------------------------------------


def test_del_prints_how_many_keys_existed(server: RespServer) -> None:
    server.values = {b"a": b"", b"b": b""}
    assert run(server, "del", "a", "b", "c").stdout == b"2\n"
    deleted = run(server, "del", "a", "-o", "json")
    assert (deleted.returncode, json.loads(deleted.stdout)) == (0, {"deleted": 0})


def test_incr_takes_negative_numbers_without_ceremony(server: RespServer) -> None:
    assert run(server, "incr", "n").stdout == b"1\n"
    assert run(server, "incr", "n", "-5", "-o", "json").stdout == b'{"key": "n", "value": -4}\n'
    assert run(server, "incr", "n", "--", "-6").stdout == b"-10\n"


def test_scan_lists_keys_over_several_pages_and_stops_at_the_limit(server: RespServer) -> None:
    server.values = {b"k%d" % number: b"v%d" % number for number in range(5)} | {b"x": b"y"}
    assert run(server, "scan").stdout == b"k0\nk1\nk2\nk3\nk4\nx\n"
    assert run(server, "scan", "--match", "x*").stdout == b"x\n"
    limited = run(server, "scan", "--limit", "3", "--values", "--count", "2")
    assert limited.stdout == b"k0\tv0\nk1\tv1\nk2\tv2\n"


def test_scan_output_keeps_one_line_per_key_whatever_it_holds(server: RespServer) -> None:
    server.values = {b"a\nb\\": b"\x1b[2J"}
    assert run(server, "scan", "--values").stdout == b"a\\nb\\\\\t\\x1b[2J\n"


def test_scan_as_json_is_one_document(server: RespServer) -> None:
    assert json.loads(run(server, "scan", "-o", "json").stdout) == []
    server.values = {b"a": b"\xff", b"b": b"2", b"c": b"3"}
    listed = run(server, "scan", "-o", "json", "--values")
    assert json.loads(listed.stdout) == [
        {"key": "a", "value": {"base64": "/w=="}},
        {"key": "b", "value": "2"},
        {"key": "c", "value": "3"},
    ]


def test_scan_leaves_out_values_that_were_removed_meanwhile(server: RespServer) -> None:
    server.handlers[b"SCAN"] = lambda _: array([bulk(b"0"), array([bulk(b"a"), bulk(b"gone")])])
    server.values = {b"a": b"1"}
    assert run(server, "scan", "--values").stdout == b"a\t1\n"


def test_a_scan_as_table_says_when_it_is_cut(server: RespServer) -> None:
    server.values = {b"%04d" % number: b"" for number in range(1001)}
    cut = run(server, "scan", "-o", "table", "--count", "1000")
    assert len(cut.stdout.splitlines()) == 1 + 1000
    assert b"only the first 1000 keys" in cut.stderr
    whole = run(server, "scan", "-o", "table", "--count", "1000", "--limit", "2000")
    assert len(whole.stdout.splitlines()) == 1 + 1001
    assert whole.stderr == b""


# ---- status ----------------------------------------------------------------------------------


def test_status_exits_0_if_every_group_has_a_leader(server: RespServer) -> None:
    server.handlers[b"RAFTER.STATUS"] = lambda _: encode(STATUS, resp3=True)
    shown = run(server, "status")
    assert shown.returncode == 0
    assert b"10.0.0.1:17379" in shown.stdout
    assert json.loads(run(server, "status", "-o", "json").stdout) == STATUS


def test_status_exits_5_and_prints_its_tables_if_a_group_has_none(server: RespServer) -> None:
    groups = [{"group": 1, "leader": 1}, {"group": 2, "leader": 0}, {"group": 3}]
    server.handlers[b"RAFTER.STATUS"] = lambda _: encode({**STATUS, "groups": groups}, resp3=True)
    shown = run(server, "status")
    assert shown.returncode == 5
    assert b"none" in shown.stdout
    assert shown.stderr == b"Error: no leader for group 2, 3\n"


def test_status_of_a_server_without_groups_is_no_success(server: RespServer) -> None:
    server.handlers[b"RAFTER.STATUS"] = lambda _: encode({"nodes": []}, resp3=True)
    assert run(server, "status").returncode == 5


# ---- colours ---------------------------------------------------------------------------------


def test_a_node_is_replaced_or_the_reason_why_not(server: RespServer) -> None:
    seen: list[list[bytes]] = []

    def replace(command: list[bytes]) -> bytes:
        seen.append(command)
        return b"+OK\r\n" if len(seen) == 1 else b"-ERR node 2 is up\r\n"

    server.handlers[b"RAFTER.REPLACE"] = replace
    done = run(server, "node", "replace", "2", "-o", "plain")
    assert (done.returncode, done.stdout) == (0, b"OK\n")
    refused = run(server, "node", "replace", "2")
    assert (refused.returncode, refused.stderr) == (1, b"Error: ERR node 2 is up\n")
    assert seen == [[b"2"], [b"2"]]


def test_colours_are_for_terminals_without_no_color(server: RespServer) -> None:
    server.handlers[b"RAFTER.STATUS"] = lambda _: encode(STATUS, resp3=True)
    code, coloured = run_on_terminal(server, "status")
    assert code == 0
    assert "\x1b[32m" in coloured
    code, plain = run_on_terminal(server, "status", NO_COLOR="1")
    assert code == 0
    assert "\x1b" not in plain
    assert "10.0.0.1:17379" in plain
    assert b"\x1b" not in run(server, "status", FORCE_COLOR="1").stdout


def test_a_reader_that_leaves_ends_the_scan_without_a_traceback(server: RespServer) -> None:
    server.values = {b"%06d" % number: b"" for number in range(50_000)}
    process = subprocess.Popen(
        [sys.executable, "-m", "rafter_kv.cli", "scan", "--count", "10000"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(str(server.endpoint)),
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"000000\n"
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(timeout=60) == 1


def test_nothing_is_sent_if_the_result_cannot_be_told(server: RespServer) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "rafter_kv.cli", "incr", "n"],
        env=environment(str(server.endpoint)),
        preexec_fn=lambda: os.close(1),
    )
    assert process.wait(timeout=60) == 1
    assert server.connections == 0


# ---- endpoints, time, errors -----------------------------------------------------------------


def test_the_next_endpoint_answers_when_the_first_is_down(server: RespServer) -> None:
    server.values[b"k"] = b"v"
    assert run(f"{closed_endpoint()},{server.endpoint}", "get", "k").stdout == b"v"


def test_an_option_wins_over_the_environment_before_and_after_the_command(
    server: RespServer,
) -> None:
    server.values[b"k"] = b"v"
    down, up = str(closed_endpoint()), str(server.endpoint)
    assert run(down, "--endpoints", up, "get", "k").stdout == b"v"
    assert run(down, "get", "k", "--endpoints", up).stdout == b"v"
    assert run(up, "--endpoints", down, "get", "k", "--endpoints", up).stdout == b"v"
    assert run(up, "-o", "json", "get", "k", "-o", "plain").stdout == b"v"


def test_a_command_over_tls_or_the_reason_why_not(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    with RespServer(tls=server_tls(authority)) as server:
        server.values[b"k"] = BINARY
        got = run(server, "get", "k", "--cacert", str(authority.ca))
        assert (got.returncode, got.stdout) == (0, BINARY)
        refused = run(server, "get", "k", "--tls")
        assert (refused.returncode, refused.stdout) == (5, b"")
        assert refused.stderr.startswith(
            f"Error: no endpoint answers: {server.endpoint}: TLS: ".encode()
        )
        unusable = run(server, "get", "k", "--cacert", str(tmp_path / "gone.pem"))
        assert unusable.returncode == 2
        assert b"gone.pem: no such file or directory" in unusable.stderr


def test_no_endpoint_that_answers_exits_5() -> None:
    endpoint = closed_endpoint()
    got = run(str(endpoint), "get", "k")
    assert (got.returncode, got.stdout) == (5, b"")
    assert got.stderr == f"Error: no endpoint answers: {endpoint}: connection refused\n".encode()


def test_a_group_without_leader_exits_5(server: RespServer) -> None:
    server.handlers[b"SET"] = lambda _: b"-CLUSTERDOWN No Raft leader\r\n"
    put = run(server, "put", "k", "v")
    assert (put.returncode, put.stderr) == (5, b"Error: CLUSTERDOWN No Raft leader\n")


def test_an_unknown_outcome_exits_6(server: RespServer) -> None:
    def reset(_: list[bytes]) -> bytes:
        raise Fault("reset")

    server.handlers[b"INCRBY"] = reset
    incremented = run(server, "incr", "n")
    assert incremented.returncode == 6
    assert b"may have been executed" in incremented.stderr


def test_a_timeout_exits_6(server: RespServer) -> None:
    def hang(_: list[bytes]) -> bytes:
        raise Fault("hang")

    server.handlers[b"GET"] = hang
    got = run(server, "get", "k", "--timeout", "0.2")
    assert got.returncode == 6
    assert b"no answer within 0.2 s" in got.stderr


def test_an_error_of_the_server_exits_1_on_one_printable_line(server: RespServer) -> None:
    server.handlers[b"GET"] = lambda _: b"-ERR bad \x1b[2J thing\r\n"
    got = run(server, "get", "k")
    assert (got.returncode, got.stderr) == (1, b"Error: ERR bad \\x1b[2J thing\n")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["get"], b"Missing argument 'KEY'"),
        (["put", "k"], b"Missing argument 'VALUE'"),
        (["put", "k", "v", "--nx", "--xx"], b"exclude each other"),
        (["put", "k", "v", "-x"], b"leave VALUE out"),
        (["put", "k", "v", "--ttl", "0"], b"'0' is not a number of seconds"),
        (["put", "k", "v", "--ttl", "nan"], b"'nan' is not a number of seconds"),
        (["get", "k", "--timeout", "soon"], b"'soon' is not a number of seconds"),
        (["get", "k", "--endpoints", "host:none"], b"'host:none'"),
        (["get", "k", "-o", "xml"], b"'xml' is not one of"),
        (["incr", "k", "many"], b"'many' is not a valid integer"),
        (["incr", "k", "9223372036854775808"], b"is not in the range"),
        (["incr", "k", "--bogus"], b"No such option"),
        (["scan", "--limit", "0"], b"is not in the range"),
        (["del"], b"Missing argument 'KEYS...'"),
        (["frobnicate"], b"No such command"),
        (["node", "replace"], b"Missing argument 'ID'"),
        (["node", "replace", "65536"], b"is not in the range"),
        (["node", "remove", "1"], b"No such command"),
    ],
)
def test_wrong_usage_exits_2_and_sends_nothing(
    server: RespServer, arguments: list[str], complaint: bytes
) -> None:
    used = run(server, *arguments)
    assert used.returncode == 2
    assert complaint in used.stderr
    assert server.connections == 0


def test_version_and_help_need_no_server() -> None:
    nowhere = str(closed_endpoint())
    assert run(nowhere, "version").stdout.startswith(b"rafter-cli ")
    assert run(nowhere, "version").stdout == run(nowhere, "--version").stdout
    assert run(nowhere, "put", "--help").returncode == 0


def test_the_shell_can_complete_commands() -> None:
    completed = run(
        "127.0.0.1:1",
        _RAFTER_CLI_COMPLETE="bash_complete",
        COMP_WORDS="rafter-cli st",
        COMP_CWORD="1",
    )
    assert completed.stdout == b"plain,status\n"
