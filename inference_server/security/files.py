"""The files of TLS and API keys together: loaded at start, kept current while the server runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from inference_server.core.settings import TlsFiles
from inference_server.security.api_keys import ApiKeys, CallerLimits
from inference_server.security.reloading import POLL_SECONDS, keep_current
from inference_server.security.tls import Certificates
from inference_server.telemetry.statistics import Statistics


@dataclass(frozen=True, kw_only=True, slots=True)
class Security:
    """The certificates and keys that the servers of one process share."""

    certificates: Certificates | None = None
    """None: plaintext."""
    api_keys: ApiKeys | None = None
    """None: calls need no key."""

    @classmethod
    def load(
        cls,
        *,
        tls: TlsFiles | None,
        api_keys_file: Path | None,
        limits: CallerLimits | None = None,
        strict: bool = True,
    ) -> Security:
        """Reads the files. Raises SettingsError, one line that names the variable; for keys only when `strict`."""
        return cls(
            certificates=None if tls is None else Certificates(tls),
            api_keys=None if api_keys_file is None else ApiKeys.load(api_keys_file, limits=limits, strict=strict),
        )

    @property
    def num_unauthenticated(self) -> int:
        """Calls refused since the start, over all protocols."""
        return 0 if self.api_keys is None else self.api_keys.num_refused

    async def keep_current(self, statistics: Statistics, *, poll_seconds: float = POLL_SECONDS) -> None:
        """Follows changes of the files until it is cancelled; returns at once if there are no files."""
        sources = [source for source in (self.certificates, self.api_keys) if source is not None]
        await keep_current(sources, statistics, poll_seconds=poll_seconds)
