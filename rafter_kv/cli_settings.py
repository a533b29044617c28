"""What every command of rafter-cli takes: where the servers are, how to reach them, what to print.

Each option may stand before the command or behind it, and the innermost place wins. With --tls, or
with any of the files of TLS, connections are encrypted and the server's certificate must hold the
name, or the address, that its endpoint was given as.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import click

from rafter_kv.cli_output import Output
from rafter_kv.client import Client, Endpoint, EndpointError, parse_endpoints
from rafter_kv.client_connection import reason_of

if TYPE_CHECKING:
    import ssl

__all__ = ["BYTES", "ENDPOINTS_DEFAULT", "SECONDS", "Settings", "common_options"]

ENDPOINTS_DEFAULT: Final = "127.0.0.1:7379"
_SECONDS_MIN: Final = 0.001
_SECONDS_MAX: Final = 1e9


class Settings:
    """What the options common to all commands say; the innermost place that names one wins."""

    def __init__(self) -> None:
        self.endpoints: list[Endpoint] = []
        self.timeout_seconds = 0.0
        self.tls = False
        self.tls_cacert: str | None = None
        self.tls_cert: str | None = None
        self.tls_key: str | None = None
        self.format: str | None = None

    def client(self) -> Client:
        """Return a client, not yet connected. Raises click.UsageError for unusable TLS files."""
        has_files = self.tls_cacert or self.tls_cert or self.tls_key
        tls = self._tls_context() if self.tls or has_files else None
        return Client(self.endpoints, timeout_seconds=self.timeout_seconds, tls=tls)

    def _tls_context(self) -> ssl.SSLContext:
        # Imported here: most runs do without, and it is slow.
        import ssl

        if bool(self.tls_cert) != bool(self.tls_key):
            raise click.UsageError("--cert and --key belong together")
        if self.tls_cacert:
            # Only this authority, not also those of the machine.
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            try:
                context.load_verify_locations(self.tls_cacert)
            except (OSError, ValueError) as error:
                raise _unusable("--cacert", self.tls_cacert, error) from error
        else:
            context = ssl.create_default_context()
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if self.tls_cert and self.tls_key:
            files = f"{self.tls_cert}, {self.tls_key}"
            try:
                context.load_cert_chain(self.tls_cert, self.tls_key)
            except (OSError, ValueError) as error:
                raise _unusable("--cert, --key", files, error) from error
        return context

    def output(self, default: str = "plain") -> Output:
        """Return the writer for the chosen format, or for the command's own default."""
        return Output(self.format or default)


def _unusable(options: str, files: str, error: OSError | ValueError) -> click.UsageError:
    return click.UsageError(f"{options} {files}: {reason_of(error)}")


def _endpoints(text: str) -> list[Endpoint]:
    try:
        return parse_endpoints(text)
    except EndpointError as error:
        raise click.BadParameter(str(error)) from error


def _seconds(text: str | float) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    # Written so that NaN fails too.
    if not _SECONDS_MIN <= seconds <= _SECONDS_MAX:
        raise click.BadParameter(f"{text!r} is not a number of seconds of at least {_SECONDS_MIN}")
    return seconds


def _parameter_type(name: str, convert: Callable[[Any], Any]) -> click.ParamType[Any]:
    parameter_type = click.types.FuncParamType(convert)
    parameter_type.name = name
    return parameter_type


ENDPOINTS: Final = _parameter_type("HOST:PORT[,…]", _endpoints)
SECONDS: Final = _parameter_type("SECONDS", _seconds)
BYTES: Final = _parameter_type("TEXT", os.fsencode)
"""An argument as the bytes that were typed, whatever their encoding."""


def _keep(ctx: click.Context, param: click.Parameter, value: object) -> None:
    if value is not None:
        setattr(ctx.ensure_object(Settings), str(param.name), value)


_TLS_FILES: Final = {
    "cacert": "Authority of the servers' certificates (PEM); without it, the machine's own.",
    "cert": "Certificate to show to servers that ask for one (PEM).",
    "key": "The private key of --cert (PEM).",
}


def _file_option(name: str, text: str, top: bool) -> Callable[[Any], Any]:
    return click.option(
        f"--{name}",
        f"tls_{name}",  # a command's own argument may be called key
        type=click.Path(),
        envvar=f"RAFTERCLI_{name.upper()}" if top else None,
        show_envvar=top,
        help=text,
        callback=_keep,
        expose_value=False,
    )


def common_options(top: bool) -> Callable[[Any], Any]:
    """Add the options of every command; defaults and environment belong to the `top` alone."""
    options = [
        click.option(
            "--endpoints",
            type=ENDPOINTS,
            default=ENDPOINTS_DEFAULT if top else None,
            envvar="RAFTERCLI_ENDPOINTS" if top else None,
            show_envvar=top,
            show_default=top,
            help="Servers to ask, comma separated; the next is tried when one fails.",
            callback=_keep,
            expose_value=False,
        ),
        click.option(
            "--timeout",
            "timeout_seconds",
            type=SECONDS,
            default=5.0 if top else None,
            show_default=top,
            help="Bound of each request, all endpoints included.",
            callback=_keep,
            expose_value=False,
        ),
        click.option(
            "--tls",
            is_flag=True,
            default=None,
            envvar="RAFTERCLI_TLS" if top else None,
            show_envvar=top,
            help="Encrypt; implied by the three that follow.",
            callback=_keep,
            expose_value=False,
        ),
        *(_file_option(name, text, top) for name, text in _TLS_FILES.items()),
        click.option(
            "-o",
            "--output",
            "format",
            type=click.Choice(["table", "json", "plain"]),
            help="How to print results.",
            callback=_keep,
            expose_value=False,
        ),
    ]

    def decorate(function: Any) -> Any:  # noqa: ANN401 - as click's own decorators
        for option in reversed(options):
            function = option(function)
        return function

    return decorate
