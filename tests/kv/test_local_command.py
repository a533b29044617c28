from rafter_kv.connection import RespConnection
from rafter_kv.local_command import (
    PENDING,
    container,
    local,
    quoted,
    unknown_command,
    unknown_subcommand,
)
from rafter_kv.results import Result
from tests.kv.fake_front_end import FakeFrontEnd


def _answer(_connection: RespConnection, command: list[bytes]) -> Result:
    return len(command)


SPEC = container(
    "BOX", "A box.", ("PART <x>", "    Does it."), (local("BOX|PART", 3, _answer, ""),)
)


def run(*command: bytes) -> Result:
    assert SPEC.handler is not None
    return SPEC.handler(RespConnection(FakeFrontEnd()), list(command))


def test_a_container_runs_its_parts_in_any_case_and_checks_their_arity() -> None:
    assert run(b"BOX", b"part", b"x") == 3
    assert run(b"BOX", b"PART") == "-ERR wrong number of arguments for 'box|part' command"
    assert run(b"BOX", b"help", b"x") == "-ERR wrong number of arguments for 'box|help' command"
    assert run(b"BOX") == "-ERR wrong number of arguments for 'box' command"


def test_an_unknown_part_is_an_unknown_subcommand() -> None:
    assert run(b"BOX", b"nope") == "-ERR unknown subcommand 'nope'. Try BOX HELP."
    assert unknown_subcommand("BOX", b"x" * 200) == (
        f"-ERR unknown subcommand '{'x' * 128}'. Try BOX HELP."
    )


def test_help_lists_the_parts_and_itself() -> None:
    assert run(b"BOX", b"HELP") == [
        "+BOX <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
        "+PART <x>",
        "+    Does it.",
        "+HELP",
        "+    Prints this help.",
    ]


def test_what_an_error_quotes_is_bounded() -> None:
    long = [b"N" * 1000, *(b"a" * 50 for _ in range(1000))]
    text = unknown_command(long)
    assert text.startswith("-ERR unknown command '" + "N" * 128 + "', with args")
    assert len(text) < 400
    assert quoted(b"ab\0cd") == "ab"


def test_the_pending_mark_is_no_status_that_a_handler_could_mean() -> None:
    assert PENDING is not "+PENDING"  # noqa: F632  # identity is the point
