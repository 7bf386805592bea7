"""Checks the address of the page before anything is loaded."""

from __future__ import annotations

import errno
import socket

from composer.core.errors import ComposerError


def check_address(host: str, port: int) -> None:
    """Raises ComposerError if the address cannot be bound, with the option that chooses another one."""
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    for where in (bare, "127.0.0.1"):
        # Gradio asks for the port on 127.0.0.1 too, wherever it listens.
        try:
            _try(where, port)
        except (OSError, UnicodeError) as fault:
            raise ComposerError(_sentence(fault, host, port)) from fault


def _try(host: str, port: int) -> None:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    kind, *_, address = found[0]
    with socket.socket(kind, socket.SOCK_STREAM) as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if kind == socket.AF_INET6:
            tried.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        tried.bind(address)
        tried.listen(1)  # two may bind one port, but only one may listen


def _sentence(fault: Exception, host: str, port: int) -> str:
    number = getattr(fault, "errno", None)
    if number == errno.EADDRINUSE:
        return f"Port {port} is in use: choose another with --port or PORT, such as {_other(port)}."
    if number in (errno.EACCES, errno.EPERM):
        return f"Port {port} needs rights that this user lacks: choose one above 1023 with --port or PORT."
    return (
        f"{host[:60]!r} is no address of this machine: choose one with --host or HOST, 127.0.0.1 for this "
        "machine alone or 0.0.0.0 for everybody who can reach it."
    )


def _other(port: int) -> int:
    return port + 1 if 1023 < port < 65535 else 7861
