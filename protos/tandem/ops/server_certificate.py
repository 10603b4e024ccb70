"""The certificate of a server, and its private key, as files in PEM."""

from __future__ import annotations

import ssl
from pathlib import Path


def load_certificate(context: ssl.SSLContext, certificate: Path, private_key: Path | None) -> None:
    """Loads a certificate with its chain, and its unencrypted key, into a context. Raises OSError, of which
    ssl.SSLError is a subclass."""
    # Without this password OpenSSL would prompt for one at the terminal.
    context.load_cert_chain(certificate, private_key, password="")
