"""The command `rafterd cert`: certificates for nodes and clients, of an authority of one's own."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rafter_transport.tls import NAME_PATTERN, check_name_pattern

if TYPE_CHECKING:
    from rafterd.certificates import Issued

__all__ = ["cert"]

EXIT_FAILED = 1
DAYS_MAX = 36_500
NODE_DAYS = 397
AUTHORITY_DAYS = 3650

_DIRECTORY = click.argument("directory", type=click.Path(path_type=Path, file_okay=False))


def _name_pattern(_context: click.Context, _parameter: click.Parameter, pattern: str) -> str:
    problem = check_name_pattern(pattern)
    if problem is not None:
        raise click.BadParameter(f"{pattern}: allowed: {problem}")
    return pattern


_NAME_PATTERN_OPTION = click.option(
    "--name-pattern",
    default=NAME_PATTERN,
    show_default=True,
    callback=_name_pattern,
    help="As peer.tls_name of the nodes.",
)


def _days_option(default: int) -> Callable[[Any], Any]:
    return click.option(
        "--days",
        type=click.IntRange(1, DAYS_MAX),
        default=default,
        show_default=True,
        help="How long it is valid.",
    )


@click.group()
def cert() -> None:
    """Make certificates for TLS. No file is overwritten; keys get the mode 0600.

    Begin with `rafterd cert authority`, then make one for each node. Keep ca.key away from the
    nodes: who has it can be any of them.
    """


@cert.command("authority")
@_DIRECTORY
@click.option("--name", default="rafter", show_default=True, help="What it is called.")
@_days_option(AUTHORITY_DAYS)
def cert_authority(directory: Path, name: str, days: int) -> None:
    """Make an authority: DIRECTORY/ca.crt and DIRECTORY/ca.key."""

    def make() -> Issued:
        from rafterd.certificates import make_authority

        return make_authority(directory, name, days)

    _run(make)


@cert.command("node")
@_DIRECTORY
@click.option("--id", "node", type=click.IntRange(1, 65535), required=True, help="Its node.id.")
@click.option(
    "--host",
    "hosts",
    multiple=True,
    help="A host name or address under which clients connect to it. Repeatable.",
)
@_NAME_PATTERN_OPTION
@_days_option(NODE_DAYS)
def cert_node(
    directory: Path, node: int, hosts: tuple[str, ...], name_pattern: str, days: int
) -> None:
    """Make the certificate of a node with the authority in DIRECTORY: node-1.crt and node-1.key."""
    name = name_pattern.replace("{id}", str(node))

    def make() -> Issued:
        from rafterd.certificates import open_authority

        return open_authority(directory).issue_node(name, hosts, days)

    _run(make)


@cert.command("client")
@_DIRECTORY
@click.argument("name")
@_NAME_PATTERN_OPTION
@_days_option(NODE_DAYS)
def cert_client(directory: Path, name: str, name_pattern: str, days: int) -> None:
    """Make the certificate of a client with the authority in DIRECTORY: NAME.crt and NAME.key.

    A client cannot be called as a node is: it could dial the others as that one.
    """
    node_name = re.escape(name_pattern).replace(re.escape("{id}"), r"\d+")
    if re.fullmatch(node_name, name, re.IGNORECASE):
        raise click.UsageError(f"NAME {name}: a node is called so")

    def make() -> Issued:
        from rafterd.certificates import open_authority

        return open_authority(directory).issue_client(name, days)

    _run(make)


def _run(make: Callable[[], Issued]) -> None:
    """Make a certificate and print its files, or why not."""
    from rafterd.certificates import CertificateError

    try:
        issued = make()
    except CertificateError as error:
        click.echo(f"rafterd: {error}", err=True)
        sys.exit(EXIT_FAILED)
    for path in issued:
        click.echo(path)
