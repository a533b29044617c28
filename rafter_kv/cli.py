"""rafter-cli: the commands a person or a script types.

Exit codes are part of the interface: 0 done, 1 error, 2 wrong usage, 3 key not found (get),
4 condition not met (put --nx/--xx), 5 unavailable or no leader, 6 timeout or unknown outcome.
Results go to standard output, everything else to standard error.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from itertools import islice
from typing import Final, NoReturn

import click

from rafter_kv.cli_output import cell_text, escaped
from rafter_kv.cli_settings import BYTES, SECONDS, Settings, common_options
from rafter_kv.cli_status import fetch_status, write_status
from rafter_kv.client import Client, RafterError, TimedOut, Unavailable, UnknownOutcome

EXIT_ERROR: Final = 1
EXIT_NOT_FOUND: Final = 3
EXIT_CONDITION: Final = 4
EXIT_UNAVAILABLE: Final = 5
EXIT_UNKNOWN: Final = 6

VALUE_BYTES_MAX: Final = 512 << 20
"""The longest string of the Redis protocol: standard input is not read beyond it."""

TABLE_ROWS_MAX: Final = 1000
"""A table is laid out as a whole, so without --limit it ends here; other formats stream."""


def fail(message: str, exit_code: int) -> NoReturn:
    """Print `message` to standard error and end the process with `exit_code`."""
    click.echo(f"Error: {message}", err=True)
    raise click.exceptions.Exit(exit_code)


def _one_line(error: RafterError) -> str:
    # Much of it is the server's text, which may hold anything.
    return escaped(str(error).encode("utf-8", "surrogateescape"))


class _RafterGroup(click.Group):
    """Turns the client's errors, raised in any command, into exit codes."""

    def invoke(self, ctx: click.Context) -> object:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except Unavailable as error:
            fail(_one_line(error), EXIT_UNAVAILABLE)
        except (TimedOut, UnknownOutcome) as error:
            fail(_one_line(error), EXIT_UNKNOWN)
        except RafterError as error:
            fail(_one_line(error), EXIT_ERROR)


def _version() -> str:
    # Imported here: no other command needs it, and it is slow.
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("rafter")
    except PackageNotFoundError:
        return "(running from a source tree that is not installed)"


def _print_version(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        click.echo(f"rafter-cli {_version()}")
        ctx.exit()


@click.group(
    cls=_RafterGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog='Completion: eval "$(_RAFTER_CLI_COMPLETE=bash_source rafter-cli)"; zsh and fish alike.',
)
@common_options(top=True)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Print the version and exit.",
)
def cli() -> None:
    """Talk to a rafter cluster."""


@cli.command()
@click.argument("key", type=BYTES)
@common_options(top=False)
@click.pass_obj
def get(settings: Settings, key: bytes) -> None:
    """Print the value of KEY, byte for byte; exit code 3 if there is none."""
    with settings.client() as client:
        value = client.get(key)
    output = settings.output()
    if output.format == "json":
        output.json({"key": key, "value": value})
    elif value is not None:
        if output.format == "table":
            output.table("", ["key", "value"], [[escaped(key), escaped(value)]])
        else:
            output.raw(value)
    if value is None:
        fail(f"key not found: {escaped(key)}", EXIT_NOT_FOUND)


@cli.command()
@click.argument("key", type=BYTES)
@click.argument("value", type=BYTES, required=False)
@click.option("-x", "from_stdin", is_flag=True, help="Read the value from standard input.")
@click.option("--ttl", type=SECONDS, help="Let the key expire after this time.")
@click.option("--nx", is_flag=True, help="Only if the key does not exist; else exit code 4.")
@click.option("--xx", is_flag=True, help="Only if the key exists; else exit code 4.")
@common_options(top=False)
@click.pass_obj
def put(
    settings: Settings,
    key: bytes,
    value: bytes | None,
    from_stdin: bool,
    ttl: float | None,
    nx: bool,
    xx: bool,
) -> None:
    """Store VALUE at KEY; `-` (or -x) takes the value from standard input, byte for byte."""
    if nx and xx:
        raise click.UsageError("--nx and --xx exclude each other")
    if from_stdin and value not in {None, b"-"}:
        raise click.UsageError("-x reads the value from standard input: leave VALUE out")
    if from_stdin or value == b"-":
        value = _read_stdin()
    if value is None:
        raise click.UsageError("Missing argument 'VALUE' (or -x to read standard input)")
    with settings.client() as client:
        is_done = client.put(
            key,
            value,
            ttl_milliseconds=None if ttl is None else round(ttl * 1000),
            only_if_absent=nx,
            only_if_present=xx,
        )
    output = settings.output()
    output.fields({"key": key, "done": is_done}, plain="OK" if is_done else None)
    if not is_done:
        state = "exists" if nx else "does not exist"
        fail(f"not stored: {escaped(key)} {state}", EXIT_CONDITION)


def _read_stdin() -> bytes:
    value = sys.stdin.buffer.read(VALUE_BYTES_MAX + 1)
    if len(value) > VALUE_BYTES_MAX:
        fail(
            f"standard input is longer than {VALUE_BYTES_MAX} bytes, the largest value", EXIT_ERROR
        )
    return value


@cli.command(name="del")
@click.argument("keys", type=BYTES, nargs=-1, required=True)
@common_options(top=False)
@click.pass_obj
def delete(settings: Settings, keys: tuple[bytes, ...]) -> None:
    """Remove KEYS and print how many of them existed."""
    with settings.client() as client:
        deleted = client.delete(*keys)
    settings.output().fields({"deleted": deleted}, plain=str(deleted))


class _NegativeNumbersCommand(click.Command):
    """Lets `incr key -5` be typed without `--` before the number."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Move a negative number behind a `--` of our own."""
        if "--" not in args:
            numbers = [argument for argument in args if re.fullmatch(r"-[0-9]+", argument)]
            others = [argument for argument in args if argument not in numbers]
            args = [*others, "--", *numbers]
        return super().parse_args(ctx, args)


@cli.command(cls=_NegativeNumbersCommand)
@click.argument("key", type=BYTES)
@click.argument("by", type=click.IntRange(-(1 << 63), (1 << 63) - 1), default=1)
@common_options(top=False)
@click.pass_obj
def incr(settings: Settings, key: bytes, by: int) -> None:
    """Add BY (default 1, may be negative) to the number at KEY and print the sum."""
    with settings.client() as client:
        value = client.increment(key, by)
    settings.output().fields({"key": key, "value": value}, plain=str(value))


@cli.command()
@click.option("--match", "pattern", type=BYTES, help="Only keys that match this glob pattern.")
@click.option(
    "--count", type=click.IntRange(1, 1_000_000), help="Keys to look at per request (a hint)."
)
@click.option("--limit", type=click.IntRange(1), help="Stop after this many keys.")
@click.option("--values", is_flag=True, help="Print the values too.")
@common_options(top=False)
@click.pass_obj
def scan(
    settings: Settings, pattern: bytes | None, count: int | None, limit: int | None, values: bool
) -> None:
    r"""List keys, in no order, while others may write.

    Keys and values are printed escaped: \n, \t, \r, \\, and \xNN for control characters and for
    bytes that are not UTF-8; JSON has {"base64": …} for the latter. A key that comes or goes
    during the scan may be missing, and a key may be repeated.
    """
    output = settings.output()
    columns = ["key", "value"] if values else ["key"]
    with settings.client() as client:
        rows = _scan_rows(client, pattern, count, values)
        if output.format != "table":
            output.rows(columns, islice(rows, limit))
            return
        shown = [[*map(escaped, row)] for row in islice(rows, limit or TABLE_ROWS_MAX + 1)]
    if limit is None and len(shown) > TABLE_ROWS_MAX:
        del shown[TABLE_ROWS_MAX:]
        hint = f"only the first {TABLE_ROWS_MAX} keys: use --limit or -o plain for more"
        click.echo(hint, err=True)
    output.table("", columns, shown)


def _scan_rows(
    client: Client, pattern: bytes | None, count: int | None, with_values: bool
) -> Iterator[list[bytes]]:
    for keys in client.scan(pattern, count):
        if not with_values:
            yield from ([key] for key in keys)
        elif keys:
            for key, value in zip(keys, client.get_many(keys), strict=True):
                if value is not None:  # else it was removed since
                    yield [key, value]


@cli.command()
@common_options(top=False)
@click.pass_obj
def status(settings: Settings) -> None:
    """Show nodes, shards and groups; exit code 5 if a group has no leader."""
    with settings.client() as client:
        found = fetch_status(client)
    write_status(found, settings.output(default="table"))
    leaderless = found.groups_without_leader()
    if leaderless:
        names = ", ".join(cell_text(group.get("group")) for group in leaderless)
        fail(f"no leader for group {names}", EXIT_UNAVAILABLE)
    if not found.groups:
        fail("the server knows of no group", EXIT_UNAVAILABLE)


@cli.group()
def node() -> None:
    """Look after the nodes of a cluster."""


@node.command()
@click.argument("number", metavar="ID", type=click.IntRange(1, 65535))
@common_options(top=False)
@click.pass_obj
def replace(settings: Settings, number: int) -> None:
    """Give up node ID, whose data are lost, so that an empty one can take its place.

    Stop the lost node first. Start the empty one at once or later, under the same id: it is let in
    when all groups have taken the lost one out, and is then brought up to date. `status -o json`
    shows how far that has come. Without a majority in each group nothing happens.
    """
    with settings.client() as client:
        client.call(b"RAFTER.REPLACE", number)
    settings.output().fields({"node": number, "replacing": True}, plain="OK")


@cli.command(name="version")
def print_version() -> None:
    """Print the version of rafter-cli."""
    click.echo(f"rafter-cli {_version()}")


def main() -> NoReturn:
    """Run rafter-cli; the entry point of the package."""
    if sys.stdout is None or sys.stderr is None:
        # Found before anything is sent: a write whose result cannot be told is not begun.
        sys.exit(EXIT_ERROR)
    cli(prog_name="rafter-cli")
    raise AssertionError("click ends the process itself")


if __name__ == "__main__":
    main()
