"""Where all desks of a phase stand: one asyncio actor beside the driver, and not a process for each crew."""

from __future__ import annotations

from typing import Any

from orchestrator.desk import Desk
from orchestrator.mail import Fetched, Mail


class Office:
    """The actor's class; `ray.remote(Office)` is made in `phases`. Its desks stand until the phase is over."""

    def __init__(self) -> None:
        self._mail = Mail()
        self._desks: dict[str, Desk] = {}

    async def open(self, desk: str, max_failures: int) -> None:
        """The sweep: a desk of this name, see `Desk`."""
        self._desks[desk] = Desk(max_failures, self._mail)

    async def at(self, desk: str, method: str, arguments: tuple[Any, ...]) -> Any:
        """Everyone: what a method of that desk answers."""
        return await getattr(self._desks[desk], method)(*arguments)

    async def visit(self, trial_id: str, seen: int) -> Fetched:
        """Tune's process: see `Mail.visit`."""
        return await self._mail.visit(trial_id, seen)


class DeskHandle:
    """A desk as those elsewhere see it: `handle.post.remote(…)`, as if it were an actor of its own.

    Args:
        office: the handle of the `Office`.
        desk: the desk's name there.
    """

    def __init__(self, office: Any, desk: str) -> None:
        self.office = office
        self.desk = desk

    def __getattr__(self, method: str) -> _Method:
        if method.startswith("_"):  # what pickle asks for before there is an office
            raise AttributeError(method)
        return _Method(self.office, self.desk, method)


class _Method:
    def __init__(self, office: Any, desk: str, method: str) -> None:
        self._office, self._desk, self._method = office, desk, method

    def remote(self, *arguments: Any) -> Any:
        return self._office.at.remote(self._desk, self._method, arguments)
