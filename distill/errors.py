"""The error for invalid input, and protection against untrusted text and files."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

_FEW = 20
_LONGEST = 300
# Cc controls a terminal's cursor and colours, Cs is half a character, Zl and Zp break lines.
_UNPRINTED = {"Cc", "Cs", "Zl", "Zp"}
# These change the reading direction, so that a line is shown in another order than it is stored.
_TURNING = set("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff")


class UsageError(ValueError):
    """Invalid input. The message states the value, the rule, the remedy and the place.

    The message may quote untrusted files, so control characters in it are escaped.
    """

    def __init__(self, message: object = "") -> None:
        super().__init__(printable(str(message)))


def printable(text: str) -> str:
    """The text with control characters escaped, except line ends and tabs."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(character if is_plain(character) else _escaped(character) for character in text)


def is_plain(character: str) -> bool:
    """Whether a character is printable, a tab or a line end."""
    return character in "\n\t" or not (character in _TURNING or unicodedata.category(character) in _UNPRINTED)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


@contextmanager
def reading(place: str, remedy: str) -> Iterator[None]:
    """Convert any error of the block to a UsageError that names the file.

    Readers of images, tensors and tables may raise any class for untrusted bytes. The block must contain nothing but
    the reading, because bugs in it would be reported as a bad file.

    Args:
        place: the file, for the message.
        remedy: what to do if it cannot be read.

    Raises:
        UsageError: the block raised an error; a UsageError is passed on unchanged.
    """
    try:
        yield
    except UsageError:
        raise
    except Exception as error:
        first_line = (str(error).strip() or "nothing more is known").partition("\n")[0][:_LONGEST]
        raise UsageError(f"{place} cannot be read: {type(error).__name__}: {first_line}; {remedy}") from error


def nearest(name: str, known: Iterable[str], count: int = 3) -> list[str]:
    """The known names most similar to a misspelt one, best first; empty if none is similar."""
    return difflib.get_close_matches(name, list(known), n=count, cutoff=0.5)


def unknown(what: str, name: str, known: Iterable[str]) -> UsageError:
    """An error with the unknown name, similar known names, and all known names if they are few."""
    names = sorted(known)
    shown = name if len(name) <= _LONGEST else f"{name[:_LONGEST]}…"
    close = nearest(shown, names)
    hint = f"; did you mean {' or '.join(repr(c) for c in close)}?" if close else "."
    listing = f" Known: {', '.join(names)}." if len(names) <= _FEW else f" {len(names)} are known."
    return UsageError(f"{what} '{shown}' is not known{hint}{listing}")
