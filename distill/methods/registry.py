"""What a method is, and the names that methods go by."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

from torch import Tensor, nn

from distill.catalogue.entries import METHODS
from distill.errors import UsageError, unknown
from distill.methods.config import MethodConfig

if TYPE_CHECKING:
    from distill.models.output import ModelInfo, Output

Need = Literal["teacher", "labels", "logits", "stages", "fused"]


@dataclass(frozen=True)
class Card:
    """Where a method comes from and what it reads.

    Attributes:
        name: what `build_method` knows it by.
        title: the paper's title, and `authors`, `venue`, `year`, `url` of it.
        family: what is compared: nothing, final logits, features, relations between pixels, or logits of any
            architecture's features.
        needs: the outputs it may read.
        differs: where this implementation departs from the paper, in one or two sentences; empty where it
            does not.
    """

    name: str
    title: str
    authors: str
    venue: str
    year: int
    url: str
    family: Literal["baseline", "logits", "features", "relations", "heterogeneous"]
    needs: tuple[Need, ...]
    differs: str = ""


class Method(nn.Module):
    """A distillation loss with its own projectors, queues and settings.

    A subclass sets `Config` and `card`, builds its modules for the terms whose weight is above 0 only, and
    answers `weights` and `forward`. Its parameters are trained with the student; all its state is in
    parameters and buffers. The task cross-entropy belongs to the training step, not to a method.

    Args:
        config: its settings.
        student: shapes of the student.
        teacher: shapes of the teacher; None for a method that reads none.
        num_classes: K of the data set.

    Raises:
        UsageError: a teacher is missing, or final logits are compared and the class counts differ.
    """

    Config: ClassVar[type[MethodConfig]]
    card: ClassVar[Card]
    picture_terms: ClassVar[frozenset[str]] = frozenset()
    """Terms that are means over pictures; all others are means over valid pixels. Shares of a batch, on
    workers or in micro-batches, are added up accordingly."""
    space: ClassVar[Mapping[str, Any] | None] = None
    """The search space of a method from another package, written as in a sweep file; those of this package lie in
    `search_spaces/methods/`."""
    config: MethodConfig

    def __init__(
        self, config: MethodConfig, student: ModelInfo, teacher: ModelInfo | None, num_classes: int
    ) -> None:
        super().__init__()
        self.config = config
        self.student_info = student
        self.num_classes = num_classes
        if "teacher" in self.card.needs:
            if teacher is None:
                raise UsageError(
                    f"method '{self.card.name}' has no teacher, must have one; name a teacher model"
                )
            self.teacher_info = teacher
        read = [student, teacher] if "logits" in self.card.needs else [student]
        for model in read:
            if model is not None and model.num_classes != num_classes:
                raise UsageError(
                    f"model '{model.name}' has {model.num_classes} classes, must have the data set's "
                    f"{num_classes}; "
                    f"build it with num_classes={num_classes}"
                )

    @property
    def weights(self) -> dict[str, float]:
        """The factor of every term, by the term's name."""
        raise NotImplementedError

    def forward(self, student: Output, teacher: Output | None, labels: Tensor) -> dict[str, Tensor]:
        """The raw, unweighted terms, 0-dim float32 tensors; those of weight 0 are left out, not computed.

        Args:
            student: one forward pass, with gradient.
            teacher: the teacher's pass on the same pictures, detached, float32 or bfloat16.
            labels: `B×H×W` int64 at image resolution, 255 ignored.
        """
        raise NotImplementedError

    @property
    def preparation(self) -> str | None:
        """What must be trained on the frozen teacher before the first step, by a name that decides the result.

        None for most methods. Students of one teacher that want the same preparation share it.
        """
        return None

    def prepare(self, batches: Iterable[tuple[Output, Tensor]]) -> dict[str, Tensor]:
        """Trains what `preparation` names on endless batches of teacher outputs and labels; returns its state."""
        raise NotImplementedError

    def use_prepared(self, state: Mapping[str, Tensor]) -> None:
        """Takes what `prepare` returned, here or for another student of the same teacher."""
        raise NotImplementedError

    def is_active(self, term: str) -> bool:
        """Whether a term's weight is above 0."""
        return self.weights[term] > 0

    def require_teacher(self, teacher: Output | None) -> Output:
        """The teacher's output, which must be there."""
        if teacher is None:
            raise UsageError(
                f"method '{self.card.name}' got no teacher output, must get one; pass the teacher's"
            )
        return teacher


M = TypeVar("M", bound=type[Method])
_METHODS: dict[str, type[Method]] = {}


def register(method: M) -> M:
    """Class decorator: make a method known under its card's name.

    Raises:
        UsageError: the name is taken, or holds a `+`, which joins methods.
    """
    name = method.card.name
    if "+" in name:
        raise UsageError(f"method name '{name}' holds '+', must not: it joins methods; choose another name")
    if name in _METHODS:
        raise UsageError(
            f"method name '{name}' is taken by {_METHODS[name].__qualname__}; choose another name"
        )
    _METHODS[name] = method
    return method


def list_methods() -> list[str]:
    """Names of all registered methods, sorted; those of installed packages among them."""
    load_installed()
    return sorted(_METHODS)


@lru_cache(maxsize=1)
def load_installed() -> None:
    """Imports the methods that installed packages name as entry points of the group `heteroakd.methods`.

    An entry `name = "package.module"` promises a module whose `@register` makes `name` known. So a method of one's own
    needs no change of this package, and no configuration names code to run.

    Raises:
        UsageError: an entry cannot be imported, or registers no such method.
    """
    for entry in entry_points(group=METHODS):
        package = "an installed package" if entry.dist is None else f"package {entry.dist.name}"
        try:
            entry.load()
        except Exception as error:
            raise UsageError(
                f"method '{entry.name}' of {package} cannot be imported from {entry.value}: {error}; mend the package, "
                "or uninstall it"
            ) from error
        if entry.name not in _METHODS:
            raise UsageError(
                f"method '{entry.name}' of {package} is not registered by {entry.value}; put @register on the class "
                f"whose card is named '{entry.name}'"
            )


def registered_class(name: str) -> type[Method]:
    """The class that is registered under a name, installed packages included.

    Raises:
        UsageError: the name is unknown; the message names the nearest known ones.
    """
    if name not in _METHODS:
        load_installed()
    if name not in _METHODS:
        raise unknown("method", name, _METHODS)
    return _METHODS[name]
