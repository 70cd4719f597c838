"""How much the workers do between two exchanges with the coordinator: as much as takes a given time."""

from __future__ import annotations

import time

_LARGEST_GROWTH = 4


class RoundLength:
    """Units of a round, from the time that rank 0 measured for the last one. The first round of a wave is one unit.

    A unit of training is one step of one student. A unit of scoring is one batch.

    Args:
        seconds: time between two exchanges.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.units = 1
        self._since = time.monotonic()

    def begin(self) -> None:
        """The work of a round begins: scores and checkpoints before it do not count."""
        self._since = time.monotonic()

    def reset(self) -> None:
        """A wave begins: the time of its steps is unknown, so start with one unit."""
        self.units = 1
        self._since = time.monotonic()

    def next_units(self, units: int) -> int:
        """Length of the next round after a round of `units`. 0 for an exchange between rounds, which keeps the length."""
        took = time.monotonic() - self._since
        if not units:
            return self.units
        fitting = int(self._seconds * units / took) if took > 0 else _LARGEST_GROWTH * units
        return max(1, min(fitting, _LARGEST_GROWTH * units))
