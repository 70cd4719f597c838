"""The base class of methods, and the registry of methods by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

from torch import Tensor, nn

from distill.catalogue_entries import METHODS
from distill.errors import UsageError, unknown
from distill.methods.config import MethodConfig

if TYPE_CHECKING:
    from distill.data.sample import Role
    from distill.models.output import MapName, ModelInfo, Output

Need = Literal["teacher", "labels", "logits", "stages", "fused"]


@dataclass(frozen=True)
class Card:
    """Description of a method: its paper and the outputs it reads.

    Attributes:
        name: name for `build_method`.
        title: title of the paper.
        authors: family names of its authors.
        venue: where it was published.
        year: year of publication.
        url: link to the paper.
        family: what is compared: nothing, final logits, features, relations between pixels, or logits computed from
            any architecture's features.
        needs: the outputs that the method may read; `Method.needs` are those that it reads with its settings.
        differs: how this implementation differs from the paper, in one or two sentences; empty if it does not.
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
    """Base class of a distillation loss, with its settings, projectors and queues.

    A subclass sets `Config` and `card`, and implements `weights` and `forward`. It builds modules only for terms whose
    weight is above 0. Its parameters are trained with the student, and all its state is in parameters and buffers.
    The training step adds the task's cross-entropy.

    Args:
        config: settings of the method.
        student: shapes of the student.
        teacher: shapes of the teacher; None for a method without one.
        num_classes: number of classes K of the data set.

    Raises:
        UsageError: the teacher is missing, or final logits are compared and the numbers of classes differ.
    """

    Config: ClassVar[type[MethodConfig]]
    card: ClassVar[Card]
    picture_terms: ClassVar[frozenset[str]] = frozenset()
    """Terms that are means over images; all others are means over valid pixels. This decides how terms of micro-batches
    and of data-parallel workers are averaged."""
    result_version: ClassVar[int] = 1
    """Raised when a change alters the result of the same settings; from 2 on it is part of the ids of trials."""
    changed_default: ClassVar[str | None] = None
    """The setting whose default is the change, if that is all. With a value of its own the result and the id stay."""
    space: ClassVar[Mapping[str, Any] | None] = None
    """Search space of a method from another package, written as in a sweep file. The spaces of this package's methods
    are files in `search_spaces/methods/`."""
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
        """The unweighted loss terms by name, 0-dim float32 tensors; terms of weight 0 are not computed.

        Args:
            student: the student's output, with gradient.
            teacher: the teacher's output for the same images, detached, float32 or bfloat16.
            labels: `B×H×W` int64 at image resolution, 255 ignored.
        """
        raise NotImplementedError

    @property
    def needs(self) -> frozenset[MapName]:
        """The teacher's maps that `forward` reads with these settings; only they are kept, cached and broadcast.

        By default all maps that the card names.
        """
        named = frozenset(self.card.needs)
        stages = ("stage1", "stage2", "stage3", "stage4") if "stages" in named else ()
        return frozenset((*(name for name in ("logits", "fused") if name in named), *stages))

    def maps_of_terms(self, **maps: MapName) -> frozenset[MapName]:
        """The maps of those terms whose weight is above 0, given the map that each term reads."""
        return frozenset(name for term, name in maps.items() if self.is_active(term))

    @property
    def preparation(self) -> str | None:
        """Name of what must be trained on the frozen teacher before the first step; None for most methods.

        The name identifies the result: students of one teacher with the same name share one preparation.
        """
        return None

    @property
    def preparation_role(self) -> Role:
        """Whose training data `prepare` gets: the student's, or the teacher's where that is another set."""
        return "student"

    def prepare(self, batches: Iterable[tuple[Output, Tensor]]) -> dict[str, Tensor]:
        """Train the preparation on an infinite stream of (teacher output, labels); returns its state."""
        raise NotImplementedError

    def use_prepared(self, state: Mapping[str, Tensor]) -> None:
        """Load a state that `prepare` returned, possibly for another student of the same teacher."""
        raise NotImplementedError

    def is_active(self, term: str) -> bool:
        """Whether a term's weight is above 0."""
        return self.weights[term] > 0

    def require_teacher(self, teacher: Output | None) -> Output:
        """The teacher's output; raises UsageError if it is None."""
        if teacher is None:
            raise UsageError(
                f"method '{self.card.name}' got no teacher output, must get one; pass the teacher's"
            )
        return teacher


M = TypeVar("M", bound=type[Method])
_METHODS: dict[str, type[Method]] = {}


def register(method: M) -> M:
    """Class decorator: register a method with its card's name.

    Raises:
        UsageError: the name is taken, or contains `+`, which joins methods.
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
    """Names of all registered methods, sorted, installed packages included."""
    load_installed()
    return sorted(_METHODS)


@lru_cache(maxsize=1)
def load_installed() -> None:
    """Import the methods of installed packages, from entry points of the group `heteroakd.methods`.

    An entry `name = "package.module"` names a module that registers the method `name`. So a package can add methods
    without a change of this one, and no configuration file names code to run.

    Raises:
        UsageError: an entry cannot be imported, or does not register its method.
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
