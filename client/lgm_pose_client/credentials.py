"""What a client shows to the service, and whom it trusts."""

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import grpc

Options: TypeAlias = "tuple[tuple[str, int], ...]"
_TLS = "https://"


@dataclass(frozen=True)
class Credentials:
    """api_key: empty to show none. The files are PEM.

    ca: who signed the service's certificate; without it, the authorities that this machine trusts.
    certificate and private_key: the client's own, where the service asks for one.
    """

    api_key: str = ""
    ca: Path | None = None
    certificate: Path | None = None
    private_key: Path | None = None

    def headers(self) -> dict[str, str]:
        """Of each request over REST."""
        return {"authorization": f"Bearer {self.api_key}"} if self.api_key else {}

    def ssl_context(self) -> ssl.SSLContext:
        """For REST. Raises OSError."""
        context = ssl.create_default_context(cafile=self.ca)
        if self.certificate is not None:
            context.load_cert_chain(self.certificate, self.private_key)
        return context

    def channel(self, address: str, options: Options) -> grpc.Channel:
        """For gRPC, with TLS where the address begins with `https://`. Raises OSError."""
        if not address.startswith(_TLS):
            return grpc.insecure_channel(address, options)
        return grpc.secure_channel(address.removeprefix(_TLS), self._channel_credentials(), options)

    def async_channel(self, address: str, options: Options) -> grpc.aio.Channel:
        """See `channel`."""
        if not address.startswith(_TLS):
            return grpc.aio.insecure_channel(address, options)
        return grpc.aio.secure_channel(address.removeprefix(_TLS), self._channel_credentials(), options)

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """Of each call over gRPC."""
        return tuple(self.headers().items())

    def _channel_credentials(self) -> grpc.ChannelCredentials:
        files = self.ca, self.private_key, self.certificate
        ca, key, certificate = (None if path is None else path.read_bytes() for path in files)
        return grpc.ssl_channel_credentials(ca, key, certificate)


ANYBODY = Credentials()
