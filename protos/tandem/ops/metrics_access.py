"""Who may read the port of metrics: its TLS files and its key, which take effect as soon as their files change."""

from __future__ import annotations

import hmac
import ssl
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol, Self

from tandem.contract.whole_files import read_whole
from tandem.ops.server_certificate import load_certificate
from tandem.ops.watched_files import WatchedFiles

OPEN_PATH: Final = "/healthz"
"""Answered without a key: probes of an orchestrator have none."""
_BEARER: Final = "Bearer "


class AccessFilesError(OSError):
    """A file cannot be used. The message names the file."""


class MetricsSettings(Protocol):
    """The settings of a program that name the files of its port of metrics."""

    @property
    def metrics_tls_certificate(self) -> Path | None:
        """See `AccessFiles.certificate`."""
        ...

    @property
    def metrics_tls_key(self) -> Path | None:
        """See `AccessFiles.private_key`."""
        ...

    @property
    def metrics_key_file(self) -> Path | None:
        """See `AccessFiles.bearer`."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class AccessFiles:
    """Files of one port."""

    certificate: Path | None = None
    """Certificate and its chain, in PEM; None: plaintext."""
    private_key: Path | None = None
    """The certificate's private key, in PEM, unencrypted; needed with a certificate."""
    bearer: Path | None = None
    """File that holds the key of the scrapers; None: no key is needed."""

    @classmethod
    def of(cls, settings: MetricsSettings) -> Self:
        """The files that the settings name. Their content is checked where they are read."""
        return cls(
            certificate=settings.metrics_tls_certificate,
            private_key=settings.metrics_tls_key,
            bearer=settings.metrics_key_file,
        )


class Access:
    """Access to one port. Used by several threads at once."""

    def __init__(self, files: AccessFiles) -> None:
        """Raises AccessFilesError."""
        self._files = files
        self._lock = threading.Lock()
        self._watched = WatchedFiles(*(path for path in (files.certificate, files.private_key) if path is not None))
        self._context = self._loaded()
        if files.bearer is not None and not _content(files.bearer):
            raise AccessFilesError(f"{files.bearer} holds no key")

    def context(self) -> ssl.SSLContext | None:
        """The context of new connections, with the newest certificate; None: plaintext.

        Files that cannot be used, as in the middle of a renewal, leave the certificate before in use.
        """
        with self._lock:
            if self._context is not None and self._watched.changed():
                try:
                    self._context = self._loaded()
                except AccessFilesError:
                    return self._context
            return self._context

    def allows(self, path: str, authorization: str) -> bool:
        """Whether a request for a path may be answered, by its header `authorization`. Without a readable key nothing
        but `OPEN_PATH` is."""
        if self._files.bearer is None or path == OPEN_PATH:
            return True
        try:
            key = _content(self._files.bearer)
        except AccessFilesError:
            return False
        presented = authorization.removeprefix(_BEARER).encode("latin-1", "replace")
        return bool(key) and authorization.startswith(_BEARER) and hmac.compare_digest(presented, key)

    def _loaded(self) -> ssl.SSLContext | None:
        certificate, private_key = self._files.certificate, self._files.private_key
        if certificate is None:
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        for path in filter(None, (certificate, private_key)):
            _content(path)  # names the file, and does not wait for a pipe as OpenSSL would
        try:
            load_certificate(context, certificate, private_key)
        except OSError as error:
            raise AccessFilesError(
                f"{certificate} and {private_key} are not a certificate in PEM and its unencrypted key"
            ) from error
        return context


def _content(path: Path) -> bytes:
    try:
        return read_whole(path).strip()
    except OSError as error:
        raise AccessFilesError(f"{path}: {error.strerror}") from error
