"""Long polling in an asyncio actor: a call waits until the actor's state changes, or times out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

T = TypeVar("T")
POLL_SECONDS = 10.0  # longest wait of one call, after which the caller asks again


class Condition:
    """Wakes the callers that wait for a change."""

    def __init__(self) -> None:
        self._condition = asyncio.Condition()

    @asynccontextmanager
    async def change(self) -> AsyncIterator[None]:
        """Change the state inside the block. Waiting calls check it after the block, never during it."""
        async with self._condition:
            yield
            self._condition.notify_all()

    async def wait_for(self, look: Callable[[], T | None]) -> T | None:
        """The first result of `look` that is not None; None after `POLL_SECONDS`, so that no call blocks for ever."""
        async with self._condition:
            try:
                await asyncio.wait_for(self._condition.wait_for(lambda: look() is not None), POLL_SECONDS)
            except TimeoutError:
                return None
            return look()
