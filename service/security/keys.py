"""API keys: `key` or `name:key`, from the environment or from a file."""

import hmac
import re
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path

from service.errors import ConfigError, Unauthenticated
from service.security.client import CLIENT, Client

_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_KEY = re.compile(r"[A-Za-z0-9._~-]{16,256}")  # characters that every way of sending a key can carry


class Keys:
    """The valid keys. A name may have several keys, so that keys can be rotated.

    given: comma-separated keys. file: further keys, one a line; `load` reads it again. per_second: the rate
    limit of each name, see Client. Raises ConfigError.
    """

    def __init__(self, given: str, file: Path | None, per_second: float) -> None:
        self._given, self._file, self._per_second = given.split(","), file, per_second
        self._clients: dict[bytes, Client] = {}
        self.load()

    def load(self) -> None:
        """Read the file. Raises ConfigError and then keeps the previous keys."""
        found = _parse("POSE_API_KEYS", self._given)
        if self._file is not None:
            try:
                lines = self._file.read_text().splitlines()
            except (OSError, UnicodeDecodeError) as error:
                raise ConfigError(f"POSE_API_KEYS_FILE: {self._file} cannot be read: {error}") from None
            found |= _parse(f"POSE_API_KEYS_FILE: {self._file}", lines)
        if not found:
            raise ConfigError("POSE_API_KEYS or POSE_API_KEYS_FILE: it has no keys")
        known = {client.name: client for client in self._clients.values()}
        clients = {name: known.get(name) or Client(name, self._per_second) for name in found.values()}
        self._clients = {digest: clients[name] for digest, name in found.items()}

    def admit(self, key: str) -> None:
        """Identify the client of this request by its key and take a token of its rate.

        Raises Unauthenticated or RateLimited.
        """
        client = self.client(key)
        CLIENT.set(client)
        client.try_acquire()

    def client(self, key: str | None) -> Client:
        """The holder of a key, compared in constant time. Raises Unauthenticated."""
        if not key:
            raise Unauthenticated(
                "a key is needed: send it as `Authorization: Bearer KEY` or `X-API-Key: KEY`"
            )
        shown, holder = _digest(key), None
        for digest, client in self._clients.items():
            if hmac.compare_digest(digest, shown):
                holder = client
        if holder is None:
            raise Unauthenticated("the key is unknown")
        return holder


def shown_key(authorization: str, api_key: str) -> str:
    """The key from the headers or metadata `authorization` and `x-api-key`; empty if there is none."""
    scheme, _, token = authorization.partition(" ")
    return token.strip() if scheme.lower() == "bearer" else api_key


def _parse(source: str, lines: Iterable[str]) -> dict[bytes, str]:
    """Names of keys by digest. Raises ConfigError, whose message contains no key."""
    found = {}
    for number, line in enumerate(lines, start=1):
        if not (entry := line.strip()) or entry.startswith("#"):
            continue
        name, _, key = entry.rpartition(":")
        if not _KEY.fullmatch(key):
            raise ConfigError(f"{source}: key {number} is not 16 to 256 of A-Z a-z 0-9 . _ ~ -")
        name = name or f"key-{_digest(key).hex()[:8]}"
        if not _NAME.fullmatch(name):
            raise ConfigError(f"{source}: the name of key {number} is not 1 to 64 of A-Z a-z 0-9 . _ -")
        found[_digest(key)] = name
    return found


def _digest(key: str) -> bytes:
    return sha256(key.encode(errors="surrogateescape")).digest()
