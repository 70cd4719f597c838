"""Retries transient storage errors and converts permanent ones to readable messages. Imports no ray and no torch."""

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
TRIES = 7  # about 16 s of waiting in total, in addition to the client's own retries

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FORBIDDEN = {errno.EROFS, errno.EACCES, errno.EPERM}
_MISPLACED = {errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP}
_TRANSIENT = {errno.EIO, errno.ESTALE, errno.EAGAIN, errno.ETIMEDOUT, errno.EBUSY, errno.EINTR}
_REFUSED = (
    "ACCESS_DENIED",
    "NO_SUCH_BUCKET",
    "INVALID_ACCESS_KEY_ID",
    "SIGNATURE_DOES_NOT_MATCH",
    "EXPIRED_TOKEN",
    "' not found",  # message for an unknown bucket whose region is looked up
)


class Remedy(NamedTuple):
    """What the user can do about storage that cannot be used, for error messages.

    Attributes:
        elsewhere: how to choose another place, such as "choose another --output".
        after: what happens once the storage works again, as a sentence without its full stop.
    """

    elsewhere: str
    after: str = ""


def with_retries(
    action: Callable[[], T], *, place: str, is_local: bool, remedy: Remedy, tries: int = TRIES
) -> T:
    """Run an action on storage and retry it after transient errors; the action must be idempotent.

    Args:
        action: reads or writes one whole file, or lists or deletes.
        place: the file, for the message.
        is_local: whether the storage is a file system, whose errors have an errno; an object store's do not.
        remedy: what the user can do, for the message.
        tries: how often it is tried.

    Raises:
        FileNotFoundError: the file does not exist.
        UsageError: the storage is full, read-only, forbidden, of another kind, or failed in all attempts.
    """
    for attempt in range(tries):
        try:
            return action()
        except FileNotFoundError:
            raise
        except OSError as error:
            sentence = _permanent_error(error, place, remedy.elsewhere)
            transient = not is_local or error.errno in _TRANSIENT
            if sentence is None and not transient:
                raise
            if sentence is None and attempt == tries - 1:
                often = f" in {tries} tries" if tries > 1 else ""
                sentence = f"{place} was not reached{often} ({_first_line(error)}); see to the storage"
            if sentence is not None:
                raise UsageError(". ".join(filter(None, (sentence, remedy.after)))) from error
            time.sleep(FIRST_WAIT * 2**attempt * random.uniform(0.75, 1.25))
    raise AssertionError("the last try either returns or raises")


def _permanent_error(error: OSError, place: str, elsewhere: str) -> str | None:
    """The message for an error that a retry cannot fix; None for others."""
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
