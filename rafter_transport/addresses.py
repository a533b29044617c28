"""Addresses as operators write them: `host:port`, with brackets around an IPv6 host."""


class AddressError(ValueError):
    """An address that cannot be read. The text names the setting, the value and what is allowed."""


def parse_address(text: str, what: str) -> tuple[str, int]:
    """Split `host:port` into its parts; `[::1]:7379` for IPv6, port 0 to let the system choose.

    `what` is the setting's name and stands in the error, so that the operator knows which line to
    correct. The host is not resolved here: names are looked up anew on each connect.
    Raises AddressError.
    """
    host, separator, port_text = text.rpartition(":")
    if not separator or not host:
        raise AddressError(f"{what} = {text!r}: expected host:port")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        if ":" not in host:
            raise AddressError(f"{what} = {text!r}: brackets are for IPv6 addresses only")
    elif ":" in host or "[" in host or "]" in host:
        raise AddressError(f"{what} = {text!r}: write an IPv6 address as [address]:port")
    if not host.isprintable() or any(character.isspace() for character in host):
        raise AddressError(f"{what} = {text!r}: the host holds characters that no host name has")
    # str.isdecimal() alone would let digits of other scripts pass.
    if not (port_text.isascii() and port_text.isdecimal() and len(port_text) <= 5):
        raise AddressError(f"{what} = {text!r}: the port must be a number from 0 to 65535")
    port = int(port_text)
    if port > 65535:
        raise AddressError(f"{what} = {text!r}: the port must be a number from 0 to 65535")
    return host, port


def format_address(host: str, port: int) -> str:
    """Write an address so that `parse_address` reads it back."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
