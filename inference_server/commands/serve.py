"""`serve`: the supervisor, which starts the workers that answer."""

from __future__ import annotations

import argparse
import asyncio

from inference_server.core.settings import Settings
from tandem.ops.environment_settings import settings_help
from tandem.ops.process_end import end_process

SUMMARY = "serve, and follow the registry's alias"
PROCESS = "supervisor"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Takes no arguments; its help lists the settings."""
    parser.description = (
        "Starts the workers that answer requests, and keeps them on the bundle that the registry's alias names (or on "
        "TANDEM_BUNDLE_PATH). SIGTERM and SIGINT stop them gracefully."
    )
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = f"Settings (environment variables):\n{settings_help(Settings)}"


def run(_: argparse.Namespace, settings: Settings) -> int:
    """Serves until a signal stops the server. Raises SettingsError."""
    from inference_server.events.stream_factory import is_kafka
    from inference_server.security.files import Security
    from inference_server.store.start_check import require_usable
    from inference_server.supervisor.notifier import read_urls
    from inference_server.supervisor.notifier import require_extra as require_notify
    from inference_server.supervisor.supervisor import supervise
    from inference_server.supervisor.unleash import read_token
    from inference_server.telemetry.tracing import require_extra

    # Every worker reads these files again. Reading them here first ends the program with one line for a mistake.
    Security.load(tls=settings.tls, api_keys_file=settings.api_keys_file)
    if settings.otlp_endpoint:
        require_extra()
    if settings.notify_urls_file is not None:
        require_notify()
        read_urls(settings.notify_urls_file)
    if settings.unleash_token_file is not None:
        read_token(settings.unleash_token_file)

    async def check_and_supervise() -> int:
        await require_usable("TANDEM_STORE_URL", settings.store_url)
        if settings.events_url and not is_kafka(settings.events_url):
            await require_usable("TANDEM_EVENTS_URL", settings.events_url)
        return await supervise(settings)

    end_process(asyncio.run(check_and_supervise()))
