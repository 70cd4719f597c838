"""How an asyncio actor lets its callers wait for what changes in it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

T = TypeVar("T")
POLL_SECONDS = 10.0  # how long a call waits for news before it comes back with none


class Condition:
    """Wakes those who wait, whenever something was told."""

    def __init__(self) -> None:
        self._condition = asyncio.Condition()

    @asynccontextmanager
    async def told(self) -> AsyncIterator[None]:
        """Around a change: nobody looks in the middle of it, and everybody looks after it."""
        async with self._condition:
            yield
            self._condition.notify_all()

    async def when(self, look: Callable[[], T | None]) -> T | None:
        """What `look` finds, as soon as it finds something; None after a while, so that no caller hangs on us."""
        async with self._condition:
            try:
                await asyncio.wait_for(self._condition.wait_for(lambda: look() is not None), POLL_SECONDS)
            except TimeoutError:
                return None
            return look()
