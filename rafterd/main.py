"""The command `rafterd`: run a node, check its configuration, look at its data."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from rafterd import __version__
from rafterd.certificate_commands import cert
from rafterd.config import ConfigError, LoadedConfig, load_config
from rafterd.config_describe import to_toml
from rafterd.storage_commands import snapshot, wal

EXIT_USAGE = 2

_CONFIG_OPTION = click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path, dir_okay=False),
    envvar="RAFTERD_CONFIG",
    help="TOML file to read. Without it the default node runs: one node on loopback.",
)
_SET_OPTION = click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="SECTION.KEY=VALUE",
    help="Override any key, for example --set raft.tick_milliseconds=20. Repeatable.",
)

_DIRECT_FLAGS = {
    "node_id": "node.id",
    "data_dir": "node.data_dir",
    "shards": "node.shards",
    "client_listen": "client.listen",
    "peer_listen": "peer.listen",
    "http_listen": "http.listen",
    "log_level": "log.level",
}


@click.group(invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="rafterd")
@_CONFIG_OPTION
@_SET_OPTION
@click.option("--node-id", metavar="ID", help="node.id")
@click.option("--data-dir", metavar="DIRECTORY", help="node.data_dir")
@click.option("--shards", metavar="COUNT", help="node.shards; 0 is one for each CPU core")
@click.option("--client-listen", metavar="HOST:PORT", help="client.listen")
@click.option("--peer-listen", metavar="HOST:PORT", help="peer.listen")
@click.option("--http-listen", metavar="HOST:PORT", help="http.listen")
@click.option("--log-level", metavar="LEVEL", help="log.level: debug, info, warning or error")
@click.option(
    "--banner/--no-banner",
    default=None,
    help="Say where the node listens once it serves; by default if stdout is a terminal.",
)
@click.pass_context
def main(
    context: click.Context,
    /,
    config_path: Path | None,
    assignments: tuple[str, ...],
    banner: bool | None,
    **flags: str | None,
) -> None:
    """Run a node of rafter, a replicated key-value server that speaks the Redis protocol.

    Every key can be set by a flag, by the environment (RAFTERD_SECTION__KEY), by the file, in that
    order of precedence. Exit codes: 0 stopped in order, 1 failed, 2 wrong configuration.
    """
    if context.invoked_subcommand is not None:
        if config_path is not None or assignments or any(flags.values()):
            raise click.UsageError(
                f"options belong behind the command: rafterd {context.invoked_subcommand} …"
            )
        return
    overrides = {
        _DIRECT_FLAGS[name]: value for name, value in flags.items() if value is not None
    } | _parse_assignments(assignments)
    loaded = _load(config_path, overrides)

    def reload() -> LoadedConfig:
        return load_config(config_path, environment=os.environ, overrides=overrides)

    from rafterd.node import run_node

    is_banner = sys.stdout.isatty() if banner is None else banner
    sys.exit(run_node(loaded.config, reload=reload, is_banner=is_banner))


main.add_command(cert)
main.add_command(wal)
main.add_command(snapshot)


@main.group()
def config() -> None:
    """Check a configuration file, or show what is in effect."""


@config.command("check")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
def config_check(file: Path) -> None:
    """Check FILE by itself, without flags and environment. Exit code 2 if it cannot be used."""
    _load(file, {}, environment={})
    click.echo(f"{file}: ok")


@config.command("show")
@_CONFIG_OPTION
@_SET_OPTION
def config_show(config_path: Path | None, assignments: tuple[str, ...]) -> None:
    """Print the effective configuration as TOML; comments name what set a key."""
    loaded = _load(config_path, _parse_assignments(assignments))
    click.echo(to_toml(loaded.config, loaded.origins), nl=False)


def _load(
    path: Path | None, overrides: dict[str, str], environment: dict[str, str] | None = None
) -> LoadedConfig:
    try:
        return load_config(
            path,
            environment=os.environ if environment is None else environment,
            overrides=overrides,
        )
    except ConfigError as error:
        for problem in error.problems:
            click.echo(f"rafterd: {problem}", err=True)
        sys.exit(EXIT_USAGE)


def _parse_assignments(assignments: tuple[str, ...]) -> dict[str, str]:
    overrides: dict[str, str] = {}
    for assignment in assignments:
        key, separator, value = assignment.partition("=")
        if not separator or "." not in key:
            raise click.UsageError(f"--set {assignment}: write SECTION.KEY=VALUE")
        overrides[key.strip()] = value.strip()
    return overrides
