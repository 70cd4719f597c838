"""Storage that stumbles is asked again; storage that cannot be used is told in a sentence. No ray, no torch."""

from __future__ import annotations

import errno
import random
import time
from collections.abc import Callable
from typing import NamedTuple, TypeVar

from distill.errors import UsageError
from distill.redaction import redacted

T = TypeVar("T")

FIRST_WAIT = 0.25  # seconds; doubled each time
TRIES = 7  # in all about 16 s of waiting, beside what the object store's own client waits

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FORBIDDEN = {errno.EROFS, errno.EACCES, errno.EPERM}
_MISPLACED = {errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP}
_PASSING = {errno.EIO, errno.ESTALE, errno.EAGAIN, errno.ETIMEDOUT, errno.EBUSY, errno.EINTR}
_REFUSED = (
    "ACCESS_DENIED",
    "NO_SUCH_BUCKET",
    "INVALID_ACCESS_KEY_ID",
    "SIGNATURE_DOES_NOT_MATCH",
    "EXPIRED_TOKEN",
    "' not found",  # said of a bucket whose region is looked for
)


class Remedy(NamedTuple):
    """What a person can do about storage that cannot be used.

    Attributes:
        elsewhere: how to choose another place, such as "choose another --output".
        after: how it goes on once the storage is seen to, as a sentence without its full stop.
    """

    elsewhere: str
    after: str = ""


def with_retries(action: Callable[[], T], *, place: str, is_local: bool, remedy: Remedy) -> T:
    """Runs an action on storage, again where it may have stumbled; the action must be safe to repeat.

    Args:
        action: reads or writes one file whole, or lists or deletes.
        place: the file, for the message.
        is_local: a disk or a network folder, whose errors tell what they are; an object store's do not.
        remedy: what to do about it, for the message.

    Raises:
        FileNotFoundError: nothing is there.
        UsageError: the storage is full, read-only, forbidden, not what it should be, or was not reached for long.
    """
    for attempt in range(TRIES):
        try:
            return action()
        except FileNotFoundError:
            raise
        except OSError as error:
            sentence = _hopeless(error, place, remedy.elsewhere)
            passing = not is_local or error.errno in _PASSING
            if sentence is None and not passing:
                raise
            if sentence is None and attempt == TRIES - 1:
                sentence = (
                    f"{place} was not reached in {TRIES} tries ({_first_line(error)}); see to the storage"
                )
            if sentence is not None:
                raise UsageError(". ".join(filter(None, (sentence, remedy.after)))) from error
            time.sleep(FIRST_WAIT * 2**attempt * random.uniform(0.75, 1.25))
    raise AssertionError("the last try either returns or raises")


def _hopeless(error: OSError, place: str, elsewhere: str) -> str | None:
    """What to say of an error that no further try mends; None for others."""
    if error.errno in _FULL:
        return f"{place} cannot be written, its disk is full ({_first_line(error)}); make room"
    if error.errno in _FORBIDDEN:
        return f"{place} cannot be read or written ({_first_line(error)}); give access to it, or {elsewhere}"
    if error.errno in _MISPLACED or isinstance(error, FileExistsError):
        return f"{place} cannot be there ({_first_line(error)}); {elsewhere}"
    if any(word in str(error) for word in _REFUSED):
        return f"{place} is refused by its store ({_first_line(error)}); check bucket, region and credentials"
    return None


def _first_line(error: OSError) -> str:
    text = str(error).strip().splitlines() or [type(error).__name__]
    return redacted(text[0])
