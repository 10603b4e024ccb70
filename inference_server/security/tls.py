"""TLS: reads and checks the files, and replaces them while the server runs.

The check uses the standard library's ssl, because gRPC accepts a mismatched pair at start and then fails every
handshake. The two agree in all that is checked here.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

from inference_server.core.errors import SettingsError
from inference_server.core.settings import TlsFiles
from tandem.contract.whole_files import read_whole
from tandem.ops.server_certificate import load_certificate
from tandem.ops.watched_files import WatchedFiles


@dataclass(frozen=True, kw_only=True, slots=True)
class TlsMaterial:
    """The content of the files, in PEM."""

    certificate: bytes
    """The server's certificate, followed by the intermediate certificates."""
    key: bytes
    client_ca: bytes | None
    """Certificates of the authorities that sign clients' certificates; None: clients need no certificate."""


def read_tls(files: TlsFiles) -> TlsMaterial:
    """Reads and checks the files. Raises SettingsError, which names the variable of the file that is wrong."""
    certificate = _bytes("TANDEM_TLS_CERTIFICATE", files.certificate)
    _require_certificates("TANDEM_TLS_CERTIFICATE", files.certificate, certificate)
    key = _bytes("TANDEM_TLS_KEY", files.key)
    try:
        load_certificate(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), files.certificate, files.key)
    except ssl.SSLError as error:
        mismatch = error.reason == "KEY_VALUES_MISMATCH"
        reason = f"does not belong to {files.certificate}" if mismatch else "is not an unencrypted private key in PEM"
        raise SettingsError(f"TANDEM_TLS_KEY: {files.key} {reason}") from error
    client_ca = None
    if files.client_ca is not None:
        client_ca = _bytes("TANDEM_TLS_CLIENT_CA", files.client_ca)
        _require_certificates("TANDEM_TLS_CLIENT_CA", files.client_ca, client_ca)
    return TlsMaterial(certificate=certificate, key=key, client_ca=client_ca)


class Certificates:
    """The certificates that are in use now."""

    what = "tls_certificates"

    def __init__(self, files: TlsFiles) -> None:
        """Raises SettingsError."""
        self.files = files
        self._watched = WatchedFiles(*(path for path in (files.certificate, files.key, files.client_ca) if path))
        self.current = read_tls(files)
        self._context = self._new_context()

    def following_context(self) -> ssl.SSLContext:
        """A context for a server on the standard library's ssl, whose every new connection uses the newest files.

        A context only gains authorities and never loses one: so each handshake is handed to a context of its files.
        """
        context = self._new_context()

        def hand_over(connection: ssl.SSLObject, _: str | None, __: ssl.SSLContext) -> None:
            connection.context = self._context

        context.sni_callback = hand_over  # OpenSSL calls it for clients that name no server too
        return context

    def reload_if_changed(self) -> bool:
        """See `Reloadable`."""
        if not self._watched.changed():
            return False
        self.current = read_tls(self.files)
        self._context = self._new_context()
        return True

    def _new_context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        load_certificate(context, self.files.certificate, self.files.key)
        if self.current.client_ca is not None:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(cadata=self.current.client_ca.decode("ascii"))
            # A resumed session would not be checked against the authorities again.
            context.options |= ssl.OP_NO_TICKET
            context.num_tickets = 0
        return context


def _bytes(variable: str, path: Path) -> bytes:
    try:
        return read_whole(path)
    except OSError as error:
        raise SettingsError(f"{variable}: {path}: {error.strerror}") from error


def _require_certificates(variable: str, path: Path, content: bytes) -> None:
    """Raises SettingsError unless the content is certificates in PEM."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(cadata=content.decode("ascii"))
    except (ssl.SSLError, ValueError) as error:
        raise SettingsError(f"{variable}: {path} holds no certificate in PEM") from error
