"""TLS contexts of both ends, for the tests of clients and of the server."""

from __future__ import annotations

import ssl

from tests.transport.tls_support import Authority


def server_tls(
    authority: Authority, name: str = "127.0.0.1", *, client_authority: Authority | None = None
) -> ssl.SSLContext:
    """Return the context of a server that is called `name`, with tickets, as most servers have."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.issue(name))
    if client_authority is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(client_authority.ca)
    return context


def client_tls(authority: Authority) -> ssl.SSLContext:
    """Return the context of a client that trusts this authority alone."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(authority.ca)
    return context
