"""Local copies of a bucket's pictures on a node's disk, shared by all processes of the node."""

from __future__ import annotations

import contextlib
import errno
import functools
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from pydantic import BaseModel, ConfigDict, Field

from distill.data.disk_cache import DiskCache
from distill.errors import UsageError
from distill.setting_paths import NodePath


class RemoteCopiesConfig(BaseModel):
    """Where a node stores local copies of pictures from a bucket; changes no result."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    folder: NodePath = Field(
        "~/.cache/heteroakd/pictures",
        min_length=1,
        description="a local folder on each machine's disk; ~ is the home folder of the user who trains",
    )
    gigabytes: float = Field(
        50, gt=0, le=1e6, description="most that the folder holds; what was longest unused makes room"
    )

    @property
    def place(self) -> Path:
        """The folder on this machine."""
        return Path(self.folder).expanduser()


class RemoteCopies:
    """The local copies in a `RemoteCopiesConfig`'s folder on this machine."""

    def __init__(self, config: RemoteCopiesConfig) -> None:
        self.config = config

    def __reduce__(self) -> tuple[object, ...]:
        return RemoteCopies, (self.config,)

    def open(self, name: str, size: int, fetch: Callable[[], bytes]) -> BinaryIO:
        """Open the copy of a file of `size` bytes; without a copy, call `fetch` and store the result if it fits.

        Processes that open the same file at the same time fetch it once.

        Raises:
            UsageError: the folder cannot be used.
            Exception: what `fetch` raised.
        """
        found = self._open_copy(name, size)
        if found is not None:
            return found
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(self._disk_cache.lock(name))
            except OSError as error:
                if error.errno != errno.ENOSPC:  # on a full disk nothing is stored, which is no error
                    raise UsageError(
                        f"copies of pictures cannot be stored in {self.config.place} ({error.strerror}), must be a "
                        "folder that may be written here; set operation.remote_copies.folder"
                    ) from error
            found = self._open_copy(name, size)
            if found is not None:
                return found
            data = fetch()
            self._disk_cache.put(name, (data,))
        return io.BytesIO(data)

    def _open_copy(self, name: str, size: int) -> BinaryIO | None:
        """The copy, with its time of use updated; None if it is missing or damaged."""
        try:
            file = self._disk_cache.path(name).open("rb")
        except OSError:
            return None
        if os.fstat(file.fileno()).st_size != size:
            file.close()
            return None
        with contextlib.suppress(OSError):  # another user's file or a read-only disk: the copy is still valid
            os.utime(file.fileno())
        return file

    @functools.cached_property
    def _disk_cache(self) -> DiskCache:
        limit = int(self.config.gigabytes * 10**9)
        return DiskCache(self.config.place, limit, ".copy", evicts=True)
