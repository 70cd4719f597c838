"""How many steps the workers train between two exchanges with the coordinator: as many as take a given time."""

from __future__ import annotations

import time

_LARGEST_GROWTH = 4


class RoundLength:
    """Steps of a round, from the time that rank 0 measured for the last one. The first round of a wave is one step.

    Args:
        seconds: time between two exchanges.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.steps = 1
        self._since = time.monotonic()

    def begin(self) -> None:
        """The steps of a round begin: scores and checkpoints before it do not count."""
        self._since = time.monotonic()

    def reset(self) -> None:
        """A wave begins: the time of its steps is unknown, so start with one step."""
        self.steps = 1
        self._since = time.monotonic()

    def next_steps(self, steps: int) -> int:
        """Length of the next round after a round of `steps` steps. 0 for an exchange outside of training, which keeps the length."""
        took = time.monotonic() - self._since
        if not steps:
            return self.steps
        fitting = int(self._seconds * steps / took) if took > 0 else _LARGEST_GROWTH * steps
        return max(1, min(fitting, _LARGEST_GROWTH * steps))
