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
from inference_server.security.watched_files import WatchedFiles


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
        load_into(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), files)
    except ssl.SSLError as error:
        mismatch = error.reason == "KEY_VALUES_MISMATCH"
        reason = f"does not belong to {files.certificate}" if mismatch else "is not an unencrypted private key in PEM"
        raise SettingsError(f"TANDEM_TLS_KEY: {files.key} {reason}") from error
    client_ca = None
    if files.client_ca is not None:
        client_ca = _bytes("TANDEM_TLS_CLIENT_CA", files.client_ca)
        _require_certificates("TANDEM_TLS_CLIENT_CA", files.client_ca, client_ca)
    return TlsMaterial(certificate=certificate, key=key, client_ca=client_ca)


def load_into(context: ssl.SSLContext, files: TlsFiles) -> None:
    """Loads the certificate and its key into a context. Raises ssl.SSLError."""
    # Without this password OpenSSL would prompt for one at the terminal.
    context.load_cert_chain(files.certificate, files.key, password="")


class Certificates:
    """The certificates that are in use now."""

    what = "tls_certificates"

    def __init__(self, files: TlsFiles) -> None:
        """Raises SettingsError."""
        self.files = files
        self._watched = WatchedFiles(*(path for path in (files.certificate, files.key, files.client_ca) if path))
        self._contexts: list[ssl.SSLContext] = []
        self.current = read_tls(files)

    def follow(self, context: ssl.SSLContext) -> None:
        """Loads every new certificate into this context too: a server on the standard library's ssl uses it for later
        connections. Clients' certificates are checked against the CA that was loaded at start."""
        self._contexts.append(context)

    def reload_if_changed(self) -> bool:
        """See `Reloadable`."""
        if not self._watched.changed():
            return False
        self.current = read_tls(self.files)
        for context in self._contexts:
            load_into(context, self.files)
        return True


def _bytes(variable: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SettingsError(f"{variable}: {path}: {error.strerror}") from error


def _require_certificates(variable: str, path: Path, content: bytes) -> None:
    """Raises SettingsError unless the content is certificates in PEM."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(cadata=content.decode("ascii"))
    except (ssl.SSLError, ValueError) as error:
        raise SettingsError(f"{variable}: {path} holds no certificate in PEM") from error
