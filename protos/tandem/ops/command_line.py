"""The command line of a program: which commands it has, and how each of them ends.

Whatever stops a command is one line on standard error and an exit status, never a traceback:

| status | when                                                                       |
| ------ | -------------------------------------------------------------------------- |
| 0      | done                                                                       |
| 1      | failed; the line says why                                                  |
| 2      | a wrong argument or setting; the line names it                             |
| 130    | Ctrl-C or SIGINT; without a line                                           |
| 141    | nobody reads standard output any more, as after `| head`; without a line   |

A command may add statuses of its own. At TANDEM_LOG_LEVEL=debug the traceback is printed as well.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import select
import shlex
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Generic, Protocol, TypeVar

from tandem.ops.secrets import redacted
from tandem.ops.storage_errors import storage_error_line

EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
EXIT_INTERRUPTED: Final = 130
EXIT_UNREAD: Final = 141
"""What a shell reports of a program that SIGPIPE has ended."""


class _WithDataDir(Protocol):
    @property
    def data_dir(self) -> Path: ...


_S = TypeVar("_S", bound=_WithDataDir)
_S_contra = TypeVar("_S_contra", bound=_WithDataDir, contravariant=True)


class Command(Protocol[_S_contra]):
    """A command: a module of the folder `commands` of a program."""

    SUMMARY: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Adds what the command takes, and a description where SUMMARY does not say enough."""
        ...

    def run(self, options: argparse.Namespace, settings: _S_contra) -> int:
        """Runs the command; returns the exit status."""
        ...


@dataclass(frozen=True, kw_only=True)
class Errors:
    """How a program says that it has failed."""

    prefix: str
    """First word of the line."""
    usage: tuple[type[Exception], ...]
    """Exceptions that a wrong argument or setting raises. Their messages are one line."""
    failed: tuple[type[Exception], ...]
    """All other exceptions of the program. A message may have several lines."""


class _StorageFailed(Exception):
    """A file cannot be written or read. The message is one line."""


@dataclass(frozen=True, kw_only=True)
class Program(Generic[_S]):
    """A program with commands."""

    name: str
    """Name after `python -m`."""
    description: str
    epilog: str | None = None
    commands: Mapping[str, Command[_S]]
    load_settings: Callable[[], _S]
    """Reads the environment; raises one of `errors.usage`."""
    configure_logs: Callable[[_S, str], None]
    """Called with the settings and the name of the command, before it runs."""
    errors: Errors

    def main(self, arguments: Sequence[str]) -> int:
        """Runs one command; returns the exit status. Raises SystemExit for --help and arguments that do not parse."""
        return exit_status(lambda: self._run(arguments), self.errors)

    def parser(self) -> argparse.ArgumentParser:
        """The parser of all commands."""
        parser = argparse.ArgumentParser(
            prog=f"python -m {self.name}",
            description=self.description,
            formatter_class=argparse.RawDescriptionHelpFormatter if self.epilog else argparse.HelpFormatter,
            epilog=self.epilog,
        )
        commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
        for name, command in self.commands.items():
            described = f"{command.SUMMARY[0].upper()}{command.SUMMARY[1:]}."
            command.add_arguments(commands.add_parser(name, help=command.SUMMARY, description=described))
        return parser

    def _run(self, arguments: Sequence[str]) -> int:
        options = self.parser().parse_args(arguments)
        options.command_line = shlex.join(["python", "-m", self.name, *arguments])
        settings = self.load_settings()
        self.configure_logs(settings, options.command)
        try:
            return self.commands[options.command].run(options, settings)
        except OSError as error:  # the disk is full, read-only or gone, or a right is missing
            if _is_unread(error):
                raise
            raise _StorageFailed(storage_error_line(error, settings.data_dir)) from error


def exit_status(run: Callable[[], int], errors: Errors) -> int:
    """Calls `run` and returns its exit status, or that of what stopped it, which has been said on standard error.

    Raises SystemExit where `run` does, as argparse after it has printed help or a wrong argument.
    """
    try:
        with _flushed():
            return run()
    except errors.usage as error:
        return _said(errors, str(error), EXIT_USAGE)
    except _StorageFailed as error:
        return _said(errors, str(error), EXIT_FAILED)
    except errors.failed as error:
        return _said(errors, str(error), EXIT_FAILED)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except MemoryError as error:
        return _said(errors, f"not enough memory{f': {error}' if str(error) else ''}", EXIT_FAILED)
    except OSError as error:
        if _is_unread(error):
            _discard(sys.stdout)
            return EXIT_UNREAD
        return _said(errors, storage_error_line(error), EXIT_FAILED)
    except Exception as error:  # a bug: no message of ours says what to do, so the line says where
        return _said(errors, f"unexpected {_described(error)}; TANDEM_LOG_LEVEL=debug shows more", EXIT_FAILED)


@contextmanager
def _flushed() -> Iterator[None]:
    """Writes out at the end of the block what was printed: where that is impossible, the program has failed."""
    try:
        yield
    finally:
        try:
            sys.stdout.flush()
        except OSError as error:
            if not _is_unread(error):
                _discard(sys.stdout)
                raise _StorageFailed(f"standard output: {error.strerror or error}") from error
            raise


def _said(errors: Errors, message: str, status: int) -> int:
    text = f"{errors.prefix}: {message}"
    if os.environ.get("TANDEM_LOG_LEVEL", "").lower() == "debug":
        text = f"{''.join(traceback.format_exc())}{text}"
    try:
        print(_printable(redacted(text)), file=sys.stderr, flush=True)
    except OSError:  # nobody can be told
        _discard(sys.stderr)
    return status


def _printable(text: str) -> str:
    """The text without control characters and halves of characters, which may come from a file or a network."""
    return "".join(
        character
        if character.isprintable() or character == "\n"
        else character.encode("unicode_escape").decode("ascii")
        for character in text
    )


def _described(error: Exception) -> str:
    """Type, message and place of an exception, on one line."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    said = " ".join(str(error).split())
    return f"{type(error).__name__}{f': {said}' if said else ''} ({place.filename}, line {place.lineno})"


def _is_unread(error: OSError) -> bool:
    """Whether the error says that the reader of standard output has gone; connections break with the same error."""
    if not isinstance(error, BrokenPipeError):
        return False
    ended = select.poll()
    try:
        ended.register(sys.stdout.fileno(), 0)
        return any(event & (select.POLLERR | select.POLLHUP) for _, event in ended.poll(0))
    except (OSError, ValueError):  # not a file of the operating system
        return False


def _discard(stream: object) -> None:
    """Drops what a stream could not write: the interpreter would try again at its end, and report that it cannot."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())  # type: ignore[attr-defined]  # checked by the suppressed AttributeError
        os.close(null)
