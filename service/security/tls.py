"""Certificates of both servers, replaceable while they serve."""

import ssl
from pathlib import Path

import grpc

from service.errors import ConfigError


class Tls:
    """The certificates that both servers present and require; `load` reads the files again.

    certificate: the chain, PEM. key: PEM, not encrypted. client_ca: the CA of client certificates, PEM;
    without it clients need no certificate. Open connections are not affected by a reload. Raises
    ConfigError.
    """

    def __init__(self, certificate: Path, key: Path, client_ca: Path | None) -> None:
        self._certificate, self._key, self._client_ca = certificate, key, client_ca
        self._changed_for_grpc = False
        self.load()
        self._first = self._context
        self._first.sni_callback = self._choose

    def load(self) -> None:
        """Read the files. Raises ConfigError and then keeps the previous ones."""
        self._context, self._pem = self._read_context(), self._read_pem()
        self._changed_for_grpc = True

    def context(self) -> ssl.SSLContext:
        """The context of the HTTP server; each handshake uses the files loaded last."""
        return self._first

    def credentials(self) -> grpc.ServerCredentials:
        """The credentials of the gRPC server; each handshake uses the files loaded last."""
        self._changed_for_grpc = False
        return grpc.dynamic_ssl_server_credentials(
            self._configuration(),
            lambda: self._configuration() if self._take_change() else None,  # type: ignore[arg-type,return-value]
            require_client_authentication=self._client_ca is not None,
        )

    def _choose(self, connection: ssl.SSLObject, _name: str | None, _first: ssl.SSLContext) -> None:
        connection.context = self._context

    def _take_change(self) -> bool:
        changed, self._changed_for_grpc = self._changed_for_grpc, False
        return changed

    def _read_context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        try:
            context.load_cert_chain(self._certificate, self._key, password=_refuse_encrypted)
        except (OSError, ValueError) as error:
            names = f"{self._certificate} and {self._key}"
            raise ConfigError(f"POSE_TLS_CERT, POSE_TLS_KEY: {names} do not match: {error}") from None
        if self._client_ca is not None:
            try:
                context.load_verify_locations(self._client_ca)
            except OSError as error:
                raise ConfigError(f"POSE_TLS_CLIENT_CA: {self._client_ca}: {error}") from None
            context.verify_mode = ssl.CERT_REQUIRED
            # a resumed session shows no certificate, so it would not be checked against a new CA
            context.num_tickets = 0
            context.options |= ssl.OP_NO_TICKET
        return context

    def _read_pem(self) -> tuple[bytes, bytes, bytes | None]:
        """The contents of key, certificate and CA."""
        ca = None if self._client_ca is None else self._client_ca.read_bytes()
        return self._key.read_bytes(), self._certificate.read_bytes(), ca

    def _configuration(self) -> grpc.ServerCertificateConfiguration:
        key, certificate, ca = self._pem
        return grpc.ssl_server_certificate_configuration([(key, certificate)], ca)


def _refuse_encrypted() -> str:
    raise ValueError("the key is encrypted")
