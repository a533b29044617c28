"""The options that all commands of rafter-cli share, and the TLS that they ask for."""

from __future__ import annotations

from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from rafter_kv.cli_settings import ENDPOINTS_DEFAULT, Settings, common_options
from rafter_kv.client import Endpoint, Unavailable, parse_endpoints
from tests.kv.resp_server import RespServer
from tests.kv.tls_kit import server_tls
from tests.transport.tls_support import Authority


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def settings_of(*arguments: str, **environment: str) -> Settings:
    """Return what a command named `go` gets; its own argument is called key, as that of `get`."""
    found: list[Settings] = []

    @click.group()
    @common_options(top=True)
    def top() -> None:
        """Take the options before the command."""

    @top.command()
    @click.argument("key", default="")
    @common_options(top=False)
    @click.pass_obj
    def go(settings: Settings, key: str) -> None:
        found.append(settings)

    result = CliRunner().invoke(top, arguments, env=environment, standalone_mode=False)
    if result.exception is not None:
        raise result.exception
    return found[0]


def ask(settings: Settings, server: RespServer) -> bytes | None:
    """GET a key from the server with these settings."""
    settings.endpoints = [server.endpoint]
    with settings.client() as client:
        return client.get("k")


# ---- where an option stands ------------------------------------------------------------------


def test_without_options_there_are_defaults_and_no_tls() -> None:
    settings = settings_of("go", RAFTERCLI_CACERT="")
    assert settings.endpoints == parse_endpoints(ENDPOINTS_DEFAULT)
    assert settings.timeout_seconds == 5.0
    assert not settings.tls
    assert not settings.tls_cacert
    with RespServer() as server:
        server.values[b"k"] = b"plain"
        assert ask(settings, server) == b"plain"


@pytest.mark.parametrize(
    ("option", "attribute", "first", "second", "values"),
    [
        ("--endpoints", "endpoints", "a:1", "b:2", ([Endpoint("a", 1)], [Endpoint("b", 2)])),
        ("--timeout", "timeout_seconds", "1", "2.5", (1.0, 2.5)),
        ("--cacert", "tls_cacert", "a.pem", "b.pem", ("a.pem", "b.pem")),
        ("--cert", "tls_cert", "a.pem", "b.pem", ("a.pem", "b.pem")),
        ("--key", "tls_key", "a.pem", "b.pem", ("a.pem", "b.pem")),
        ("-o", "format", "json", "table", ("json", "table")),
    ],
)
def test_an_option_may_stand_before_or_behind_the_command_and_the_inner_place_wins(
    option: str, attribute: str, first: str, second: str, values: tuple[object, object]
) -> None:
    assert getattr(settings_of(option, first, "go"), attribute) == values[0]
    assert getattr(settings_of("go", option, first), attribute) == values[0]
    assert getattr(settings_of(option, first, "go", option, second), attribute) == values[1]


@pytest.mark.parametrize(
    ("variable", "option", "attribute"),
    [
        ("RAFTERCLI_CACERT", "--cacert", "tls_cacert"),
        ("RAFTERCLI_CERT", "--cert", "tls_cert"),
        ("RAFTERCLI_KEY", "--key", "tls_key"),
    ],
)
def test_the_environment_counts_where_no_option_is_given(
    variable: str, option: str, attribute: str
) -> None:
    assert getattr(settings_of("go", **{variable: "e.pem"}), attribute) == "e.pem"
    for arguments in ((option, "o.pem", "go"), ("go", option, "o.pem")):
        assert getattr(settings_of(*arguments, **{variable: "e.pem"}), attribute) == "o.pem"


def test_tls_is_a_flag_in_both_places_and_a_boolean_in_the_environment() -> None:
    assert settings_of("--tls", "go").tls
    assert settings_of("go", "--tls").tls
    assert settings_of("go", RAFTERCLI_TLS="1").tls
    assert not settings_of("go", RAFTERCLI_TLS="0").tls


def test_a_commands_own_argument_called_key_is_not_the_option() -> None:
    assert settings_of("go", "the-key").tls_key is None


# ---- TLS -------------------------------------------------------------------------------------


def test_an_authority_is_enough_to_ask_for_tls_and_the_only_one_that_counts(
    authority: Authority, tmp_path: Path
) -> None:
    other = Authority(tmp_path, "other")
    with RespServer(tls=server_tls(authority)) as server:
        server.values[b"k"] = b"secret"
        assert ask(settings_of("go", "--cacert", str(authority.ca)), server) == b"secret"
        for arguments in (("--cacert", str(other.ca)), ("--tls",)):
            with pytest.raises(Unavailable, match=r"TLS: .*(issuer|self-signed|signature)"):
                ask(settings_of("go", *arguments), server)


def test_without_cacert_the_machines_own_authorities_count(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.ca))
    with RespServer(tls=server_tls(authority)) as server:
        server.values[b"k"] = b"secret"
        assert ask(settings_of("go", "--tls"), server) == b"secret"


def test_a_certificate_must_hold_the_name_of_the_endpoint(authority: Authority) -> None:
    with RespServer(tls=server_tls(authority, "db.example.org")) as server:
        with pytest.raises(Unavailable, match=r"TLS: .*address mismatch.*'127\.0\.0\.1'"):
            ask(settings_of("go", "--cacert", str(authority.ca)), server)
        assert server.commands == []


def test_a_server_that_asks_for_a_certificate_gets_it(authority: Authority) -> None:
    certificate, key = map(str, authority.issue("app"))
    tls = server_tls(authority, client_authority=authority)
    with RespServer(tls=tls) as server:
        server.values[b"k"] = b"secret"
        ca = ("--cacert", str(authority.ca))
        with pytest.raises(Unavailable, match=r"TLS: .*certificate required"):
            ask(settings_of("go", *ca), server)
        assert ask(settings_of("go", *ca, "--cert", certificate, "--key", key), server) == b"secret"


def test_a_server_without_tls_is_not_spoken_to_in_the_clear(authority: Authority) -> None:
    with RespServer() as server:
        with pytest.raises(Unavailable):
            ask(settings_of("go", "--cacert", str(authority.ca), "--timeout", "0.2"), server)
        assert server.commands == []


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--cert", "app.crt"), "--cert and --key belong together"),
        (("--key", "app.key"), "--cert and --key belong together"),
        (("--cacert", "gone.pem"), "--cacert gone.pem: no such file"),
        (("--cacert", "."), "--cacert .: "),
        (("--cacert", "app.key"), "--cacert app.key: TLS: no certificate"),
        (("--cert", "gone.crt", "--key", "app.key"), "--cert, --key gone.crt, app.key: no such"),
        (("--cert", "app.key", "--key", "app.key"), "--cert, --key app.key, app.key: TLS: "),
        (("--cert", "app.crt", "--key", "other.key"), "other.key: TLS: key values mismatch"),
    ],
)
def test_files_that_cannot_be_used_are_wrong_usage_and_named(
    authority: Authority,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    complaint: str,
) -> None:
    authority.issue("app")
    authority.issue("other")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(click.UsageError) as caught:
        settings_of("go", *arguments).client()
    assert complaint in caught.value.message
