"""What a worker keeps from one cohort to the next."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass
class CarriedTeacher:
    """The teacher that this worker scored in its last cohort, so that the next cohort need not load it again."""

    path: str | None = None
    model: Any = None

    def put(self, path: str, model: Any) -> None:
        """Keep the model that was loaded from `path`."""
        self.path, self.model = path, model

    def take(self, path: str | None) -> Any:
        """The model that was loaded from `path`, or None. Whatever is kept is released."""
        found = self.model if path is not None and path == self.path else None
        self.path = self.model = None
        return found
