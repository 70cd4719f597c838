"""The one error that bad input raises, and what keeps foreign text and foreign files from being more than that."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

_FEW = 20
_LONGEST = 300
# Cc moves a terminal's cursor and colours, Cs is half a character, Zl and Zp break lines.
_UNPRINTED = {"Cc", "Cs", "Zl", "Zp"}
# These turn the order of what is read round, so that a line shows another text than it holds.
_TURNING = set("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff")


class UsageError(ValueError):
    """Input that cannot be used. The message holds the value, the rule, the remedy and the place.

    The message may quote a file of anybody's: what would steer a terminal is written out in it.
    """

    def __init__(self, message: object = "") -> None:
        super().__init__(printable(str(message)))


def printable(text: str) -> str:
    """The text with all that a terminal would obey rather than show written out; line ends and tabs stay."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(character if is_plain(character) else _written_out(character) for character in text)


def is_plain(character: str) -> bool:
    """Whether a character is shown as it is, or ends a line."""
    return character in "\n\t" or not (character in _TURNING or unicodedata.category(character) in _UNPRINTED)


def _written_out(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


@contextmanager
def reading(place: str, remedy: str) -> Iterator[None]:
    """Makes one error of all that a reader of a foreign file may raise.

    Readers of images, tensors and tables promise little about what they raise over bytes that nobody wrote for them.
    Keep the block to the reading: a mistake of ours in it would be called a bad file.

    Args:
        place: what is read, and from where.
        remedy: what to do where it cannot be read.

    Raises:
        UsageError: whatever the block raised; one of its own passes as it is.
    """
    try:
        yield
    except UsageError:
        raise
    except Exception as error:
        first_line = (str(error).strip() or "nothing more is known").partition("\n")[0][:_LONGEST]
        raise UsageError(f"{place} cannot be read: {type(error).__name__}: {first_line}; {remedy}") from error


def nearest(name: str, known: Iterable[str], count: int = 3) -> list[str]:
    """The known names closest to a misspelt one, best first; empty where none is close."""
    return difflib.get_close_matches(name, list(known), n=count, cutoff=0.5)


def unknown(what: str, name: str, known: Iterable[str]) -> UsageError:
    """An error that names the unknown value, the nearest known ones, and all known ones when they are few."""
    names = sorted(known)
    shown = name if len(name) <= _LONGEST else f"{name[:_LONGEST]}…"
    close = nearest(shown, names)
    hint = f"; did you mean {' or '.join(repr(c) for c in close)}?" if close else "."
    listing = f" Known: {', '.join(names)}." if len(names) <= _FEW else f" {len(names)} are known."
    return UsageError(f"{what} '{shown}' is not known{hint}{listing}")
