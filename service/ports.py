"""Listening sockets of the servers."""

import ipaddress
import socket


def check_port(name: str, host: str, port: int) -> None:
    """Exits with a one-line message if the port is not available; the servers would print a traceback."""
    try:
        listen(host, port).close()
    except (OSError, UnicodeError) as error:  # UnicodeError: an invalid host name
        reason = getattr(error, "strerror", None) or error
        raise SystemExit(f"{name}: cannot listen on {host} port {port}: {reason}") from None


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; `::` accepts IPv4 too, as in gRPC. Raises OSError or UnicodeError."""
    if is_any_ipv6(host):
        return socket.create_server((host, port), family=socket.AF_INET6, dualstack_ipv6=True)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family)


def is_any_ipv6(host: str) -> bool:
    """Whether a host is `::`, all addresses of IPv6."""
    try:
        return ipaddress.ip_address(host) == ipaddress.IPv6Address("::")
    except ValueError:
        return False
