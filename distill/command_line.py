"""The front of every command: output streams, arguments, errors and exit codes."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from distill.errors import UsageError

DONE, USAGE, INTERRUPTED = 0, 2, 130
"""Exit codes that all commands share. An exception that is no `UsageError` is a bug of ours: a traceback and code 1."""

ONE_NAME = "heteroakd"
"""The installed command that has all others."""

Options = TypeVar("Options")


def run_command(
    prog: str,
    options: type[Options],
    body: Callable[[Options], int],
    *,
    settings: tuple[Any, ...] = (),
) -> None:
    """Parse the arguments of this process, run a command, and exit with its code; returns if that is 0.

    Args:
        prog: the command as it is typed, for the usage text; as `heteroakd …` it has that name there.
        options: dataclass of its options, as tyro reads it.
        body: the command; returns its exit code. Its `UsageError` is printed and becomes code 2.
        settings: tyro's configuration markers.
    """
    protect_streams()
    import tyro

    typed = Path(sys.argv[0]).name
    prog = typed if typed.startswith(ONE_NAME) else prog
    code = exit_code_of(lambda: body(tyro.cli(options, prog=prog, config=settings)))
    if code:
        sys.exit(code)


def exit_code_of(body: Callable[[], int], interrupted: str = "interrupted") -> int:
    """The code that `body` returns. Its `UsageError` is printed and becomes code 2, Ctrl-C becomes code 130."""
    try:
        return body()
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return USAGE
    except KeyboardInterrupt:
        print(interrupted, file=sys.stderr)
        return INTERRUPTED


def protect_streams() -> None:
    """Make all later output safe: characters that the encoding lacks are escaped, and output to a closed pipe is dropped."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
            setattr(sys, name, QuietPipe(stream))


class QuietPipe:
    """A text stream that ignores a closed pipe, as in `... | head -1`: later output goes to the null device."""

    def __init__(self, stream: io.TextIOWrapper) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write text; returns its length."""
        try:
            return self._stream.write(text)
        except OSError as error:
            self._discard(error)
            return len(text)

    def flush(self) -> None:
        """Flush the stream."""
        try:
            self._stream.flush()
        except OSError as error:
            self._discard(error)

    def _discard(self, error: OSError) -> None:
        if error.errno not in (errno.EPIPE, errno.EIO):  # a closed pipe; a terminal that is gone
            raise error
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, self._stream.fileno())
        os.close(null)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
