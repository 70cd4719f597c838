"""Combinations of methods: `kd+cwd` has the terms of both, each with its own weight."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, create_model, model_validator
from torch import Tensor, nn

from distill.errors import UsageError
from distill.methods.config import MethodConfig
from distill.methods.registry import Card, Method, Need, registered_class

if TYPE_CHECKING:
    from distill.data.sample import Role
    from distill.models.output import MapName, ModelInfo, Output


class CombinedConfig(MethodConfig):
    """Settings of several methods, one field per method; `kd.temperature` is the field `temperature` of `kd`.

    Methods whose authors add logits distillation do not add it in a combination, unless `<method>.kd_weight` is set:
    combine with `kd` instead.
    """

    @model_validator(mode="before")
    @classmethod
    def _gather(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        gathered: dict[str, Any] = {}
        for key, value in values.items():
            part, dot, setting = key.partition(".")
            if dot and part in cls.model_fields:
                gathered.setdefault(part, {})[setting] = value
            elif key in cls.model_fields and isinstance(value, Mapping):
                gathered.setdefault(key, {}).update(value)
            else:
                gathered[key] = value
        for part, field in cls.model_fields.items():
            settings = gathered.setdefault(part, {})
            if isinstance(settings, dict):
                gathered[part] = {**_combined_defaults(field.annotation), **settings}
        return gathered


def _combined_defaults(config: Any) -> dict[str, Any]:
    """Defaults of a part's settings that differ in a combination."""
    extras = {name: field.json_schema_extra for name, field in config.model_fields.items()}
    return {
        name: extra["combined_default"]
        for name, extra in extras.items()
        if isinstance(extra, dict) and "combined_default" in extra
    }


class Combined(Method):
    """Has the terms `<method>.<term>` of every part. `combined_class` creates the subclasses."""

    parts: ClassVar[Mapping[str, type[Method]]]

    def __init__(
        self, config: CombinedConfig, student: ModelInfo, teacher: ModelInfo | None, num_classes: int
    ) -> None:
        super().__init__(config, student, teacher, num_classes)
        self.methods = nn.ModuleDict(
            {
                name: part(getattr(config, name), student, teacher, num_classes)
                for name, part in self.parts.items()
            }
        )

    def _each(self) -> list[tuple[str, Method]]:
        return [(name, part) for name, part in self.methods.items() if isinstance(part, Method)]

    @property
    def needs(self) -> frozenset[MapName]:
        """Maps that any part reads."""
        return frozenset(name for _, part in self._each() for name in part.needs)

    @property
    def weights(self) -> dict[str, float]:
        """Weights of all parts' terms."""
        return {
            f"{name}.{term}": weight for name, part in self._each() for term, weight in part.weights.items()
        }

    def forward(self, student: Output, teacher: Output | None, labels: Tensor) -> dict[str, Tensor]:
        """Terms of all parts."""
        return {
            f"{name}.{term}": value
            for name, part in self._each()
            for term, value in part(student, teacher, labels).items()
        }

    def _preparing(self) -> list[tuple[str, Method]]:
        return [(name, part) for name, part in self._each() if part.preparation is not None]

    @property
    def preparation(self) -> str | None:
        """The parts' preparations, joined; None if no part has one."""
        return " + ".join(str(part.preparation) for _, part in self._preparing()) or None

    @property
    def preparation_role(self) -> Role:
        """The teacher's training data if any part asks for it: all parts get the same batches."""
        roles = {part.preparation_role for _, part in self._preparing()}
        return "teacher" if "teacher" in roles else "student"

    def prepare(self, batches: Iterable[tuple[Output, Tensor]]) -> dict[str, Tensor]:
        """The prepared states of all parts, one after the other, with keys `<method>.<key>`."""
        return {
            f"{name}.{key}": value
            for name, part in self._preparing()
            for key, value in part.prepare(batches).items()
        }

    def use_prepared(self, state: Mapping[str, Tensor]) -> None:
        """Load each part's own prepared state."""
        for name, part in self._preparing():
            prefix = f"{name}."
            part.use_prepared({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})


@functools.cache
def combined_class(name: str) -> type[Combined]:
    """The class of a combination such as `kd+cwd`.

    Raises:
        UsageError: a part is unknown, is named twice, or is `student`, which has no terms.
    """
    names = name.split("+")
    for part in names:
        if names.count(part) > 1:
            raise UsageError(f"method '{name}' names '{part}' twice, must name each once; leave one out")
        if part == "student":
            raise UsageError(f"method '{name}' holds 'student', which has no terms; leave it out")
    parts = {part: registered_class(part) for part in names}
    fields: dict[str, Any] = {
        part: (cls.Config, Field(default_factory=cls.Config, description=f"settings of {part}"))
        for part, cls in parts.items()
    }
    config = create_model(f"Config[{name}]", __base__=CombinedConfig, **fields)
    picture_terms = frozenset(
        f"{part}.{term}" for part, method in parts.items() for term in method.picture_terms
    )
    return type(
        f"Combined[{name}]",
        (Combined,),
        {
            "Config": config,
            "card": _card(name, [cls.card for cls in parts.values()]),
            "parts": parts,
            "picture_terms": picture_terms,
            "__doc__": f"The terms of {' and '.join(names)}.",
        },
    )


def _card(name: str, cards: list[Card]) -> Card:
    needs: tuple[Need, ...] = tuple(dict.fromkeys(need for card in cards for need in card.needs))
    last = max(cards, key=lambda card: card.year)
    return Card(
        name=name,
        title=" + ".join(card.title for card in cards),
        authors=" + ".join(card.authors for card in cards),
        venue=last.venue,
        year=last.year,
        url=last.url,
        family=last.family,
        needs=needs,
        differs="A combination; logits distillation enters only as `kd`.",
    )
