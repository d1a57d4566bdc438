"""The configured keys and certificates, reloaded when their files change."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from service.config import Settings
from service.errors import ConfigError
from service.security.file_watch import Watch
from service.security.keys import Keys
from service.security.tls import Tls


class Security:
    """keys: None if none are configured. tls: None if TLS is off. Raises ConfigError."""

    def __init__(self, settings: Settings) -> None:
        self._watches: list[tuple[Watch, Callable[[], None]]] = []
        self.keys = self._open_keys(settings)
        self.tls = self._open_tls(settings)

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """Reloads changed files while open."""
        tasks = [asyncio.create_task(watch.run(load)) for watch, load in self._watches]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _open_keys(self, settings: Settings) -> Keys | None:
        given, file = settings.api_keys.get_secret_value(), settings.api_keys_file
        if not given and file is None:
            if settings.rate_limit:
                raise ConfigError(
                    "POSE_RATE_LIMIT: a rate limit needs keys: set POSE_API_KEYS or POSE_API_KEYS_FILE"
                )
            return None
        watch = Watch([file] if file else [])
        keys = Keys(given, file, settings.rate_limit)
        self._watches.append((watch, keys.load))
        return keys

    def _open_tls(self, settings: Settings) -> Tls | None:
        certificate, key, client_ca = settings.tls_cert, settings.tls_key, settings.tls_client_ca
        if certificate is None and key is None and client_ca is None:
            return None
        if certificate is None or key is None:
            raise ConfigError("POSE_TLS_CERT and POSE_TLS_KEY: TLS needs both")
        files: list[Path] = [certificate, key, *([client_ca] if client_ca else [])]
        watch = Watch(files)
        tls = Tls(certificate, key, client_ca)
        self._watches.append((watch, tls.load))
        return tls
