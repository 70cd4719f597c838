"""Generates `docs/methods.md` from cards, settings, formulas and measurements."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic.fields import FieldInfo

import distill.methods as methods
from distill.methods.factory import method_class
from distill.methods.readings_page import readings_section
from distill.methods.registry import Method, list_methods
from distill.models.output import ModelInfo

_INFO = ModelInfo("any", "cnn", 2, (16, 16, 16, 16), (4, 8, 16, 32), 16, 4, 4)

_YARDSTICKS = ("kd", "yardstick: softmax-KL")

_OPENING = """# Methods

Generated from the code by `python -m distill.methods docs`. Build a method with

```python
from distill.methods import build_method
method = build_method("kd", student=student, teacher=teacher, num_classes=19, temperature=2)
terms = method(student(images), teacher(images), labels)      # raw terms; method.weights has their factors
```

For all methods:

- The training step adds the task's cross-entropy; `student` is that alone.
- Formulas are computed on the student's grid: the teacher's maps are resized to it bilinearly, labels by nearest
  neighbour. Shapes may differ; a 1×1 convolution aligns channels where a formula compares them.
- A term is a mean over valid pixels unless its formula says otherwise. Pixels labelled 255 have no effect, whatever
  the maps contain there, and a batch without a valid pixel gives 0.
- Losses run in float32 under autocast. No gradient reaches the teacher. A term of weight 0 is not computed and its
  projector not built.
- Default weights are for this normalisation; those of other code bases may differ by the number of pixels.

`tap` selects the features: `stage1` to `stage4` of the backbone, `stride8` (the deepest stage of stride at most 8, or the
nearest to it), or `fused` (the classifier's input).

Methods are joined by `+`: `build_method("kd+cwd", ..., **{"kd.kd_weight": 1, "cwd.temperature": 2})`. Terms are then named
`<method>.<term>`; the term of another method that some methods include (`kd_weight` of `cwd`, `skd`, `ifvd`, `at`,
`fitnet`, `cirkd`, `af_dcd`; `cwd_weight` of `mgd`) is 0 in a combination unless it is set.

A sweep searches the recipe's learning rate and weight decay for every method, the student alone included, by the same factors
(`search_spaces/recipe.yaml`). Such an included term is searched like the method that it comes from, weight and temperature.

Your own method subclasses `Method`, has a `Card` and a `MethodConfig`, and is registered with `@register`;
`distill.testing.MethodConformance` tests it.
"""


_BALANCE = """## Weights relative to the task

One weight can be far too small for one pair and far too large for another. `balanced.<term>_weight: c`, in a method's
`config` or in its own `space`, means λ = c / ratio, where ratio is the norm of the raw term's gradient at the
student's final logits over that of the task's loss (a term that does not pass through the logits is measured at the deepest
feature it reads). It is measured over the first 20 steps of the training itself; at the first step the term has weight 0.

```yaml
methods:
  - student
  - name: kd
    space:
      recipe.lr: {{scale_log_uniform: [0.25, 4]}}
      recipe.weight_decay: {{scale_log_uniform: [0.1, 10]}}
      balanced.kd_weight: {{log_uniform: [0.1, 10]}}
      temperature: {{log_uniform: [0.5, 8]}}
```

A `space` replaces the whole default one. Without the two parameters of the recipe, which the student alone searches, the method
would be tuned less than it; the sweep then prints a warning, and the board marks the method.

`python -m orchestrator.sweep FILE --calibrate` trains the teachers and 20 steps of every study, and prints each term's ratio.

Does that save trials? `python benchmarks/balance.py --trials {trials}` searched each method twice on the preset `laptop`'s pairs, {steps}
steps and no pruning: in the search space that it had by default, and in one where each weight is relative, 0.1 to 10 for every
method. That was before the spaces had the recipe and temperatures of included terms, with other learning rates, and with `heteroakd` at stride 8. Tune mIoU
that the best of n trials is expected to have, in points, ± its standard error:

"""


_DRIFT = """### How far a relative weight drifts

The ratio is measured over the first {measured_steps} steps, and the weight is constant afterwards. `python benchmarks/drift.py` trains a
small CNN on generated scenes with each method, {steps} steps under a transformer that was trained for {teacher_steps}, all weights balanced
to 1. It measures the ratio (gradient norm of the raw term over that of the task's loss) again in the last {measured_steps} steps. Drift is the
ratio at the end over that at the start: how hard the term pulls at the end, beside the task, for each 1 that was asked for.

"""


_RANGES = """

So a relative weight is relative at the start only. It stays constant, as a weight does in the papers, and is not measured again:
a weight that follows the gradients would grow without bound where the student has learnt what the term teaches (for `ifvd`
twentyfold here), and would be another method than the paper's. The preset `scenes` has ranges that survive the drift instead: 0.001 to 10 for the
feature terms of `mgd` and `af_dcd`, 0.1 to 1000 for the relations of `cirkd` and 0.1 to 10 for most others. They were chosen by the same
measurement over 150 steps, in which `af_dcd` rose by 520 and `cirkd` fell by 130. Each range has a weight that pulls as hard as the task at
the end, but for that of `ifvd`, whose largest weight pulls half as hard (a test compares them with this table). Its searches chose 0.6 to 5 of
the 10 ([board](benchmark/LEADERBOARD.md))."""


def methods_page(root: Path) -> str:
    """The page about all methods as Markdown.

    Args:
        root: the repository, for search spaces and `benchmarks/losses.json`.
    """
    names = ["student", *(name for name in list_methods() if name != "student")]
    parts = [
        _OPENING,
        _summary(names),
        *(_section(name, root) for name in names),
        _balance(root),
        _drift(root),
        _cost(root),
    ]
    return "\n".join(part.rstrip() + "\n" for part in parts)


def _table(header: list[str], rows: list[list[str]], right: frozenset[str] = frozenset()) -> str:
    rule = ["---:" if column in right else "---" for column in header]
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, rule, *rows])


def _terms(cls: type[Method]) -> str:
    weights = cls(cls.Config(), _INFO, _INFO, 2).weights
    return ", ".join(f"`{term}` {weight:g}" for term, weight in weights.items()) or "–"


def _summary(names: list[str]) -> str:
    rows = []
    for name in names:
        card = method_class(name).card
        paper = f"[{card.title}]({card.url}), {card.venue} {card.year}"
        rows.append([f"`{name}`", paper, card.family, _terms(method_class(name))])
    return _table(["method", "paper", "compares", "terms and default weights"], rows)


def _section(name: str, root: Path) -> str:
    cls = method_class(name)
    lines = [
        f"## {name}",
        "",
        f"{cls.card.authors}, {cls.card.venue} {cls.card.year}.",
        "",
        inspect.getdoc(cls) or "",
    ]
    for formula in _formulas(cls):
        summary = (inspect.getdoc(formula) or "").split("\n", 1)[0]
        lines += ["", f"`{formula.__name__}{_signature(formula)}`: {summary}"]
    if cls.card.differs:
        lines += ["", f"Differs from the paper: {cls.card.differs}"]
    advice = (inspect.getdoc(cls.Config) or "").split("\n\n", 1)[1:]
    lines += ["", *advice] if advice else []
    fields = cls.Config.model_fields
    if fields:
        rows = [[f"`{key}`", _default(f), _range(f), f.description or ""] for key, f in fields.items()]
        lines += ["", _table(["setting", "default", "range", "what it is"], rows)]
    lines += ["", f"A sweep searches {_space(name, root)}."]
    if name == "heteroakd":
        lines += ["", readings_section(root)]
    return "\n".join(lines)


def _formulas(cls: type[Method]) -> list[Any]:
    exported = (getattr(methods, name) for name in methods.__all__)
    return [f for f in exported if inspect.isfunction(f) and f.__module__ == cls.__module__]


def _signature(formula: Any) -> str:
    parameters = inspect.signature(formula).parameters.values()
    return "(" + ", ".join(str(p.replace(annotation=p.empty)) for p in parameters) + ")"


def _default(field: FieldInfo) -> str:
    value = field.default
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, int | float) else "–" if value is None else str(value)


def _range(field: FieldInfo) -> str:
    if field.annotation is bool:
        return "true, false"
    choices = [choice for choice in get_args(field.annotation) if isinstance(choice, str)]
    if choices:
        return ", ".join(choices)
    limits = {kind: value for rule in field.metadata for kind, value in vars(_Limits(rule)).items()}
    low = f"[{limits['ge']:g}" if "ge" in limits else f"({limits['gt']:g}" if "gt" in limits else "(−∞"
    high = f"{limits['le']:g}]" if "le" in limits else f"{limits['lt']:g})" if "lt" in limits else "∞)"
    return f"{low}, {high}"


class _Limits:
    """Limits in one piece of a field's metadata, as attributes gt, ge, lt, le."""

    def __init__(self, rule: Any) -> None:
        for kind in ("gt", "ge", "lt", "le"):
            if getattr(rule, kind, None) is not None:
                setattr(self, kind, getattr(rule, kind))


def _space(name: str, root: Path) -> str:
    space = yaml.safe_load((root / "search_spaces" / "methods" / f"{name}.yaml").read_text(encoding="utf-8"))
    said = [_domains(space.get("parameters", {}))] if "parameters" in space else ["the recipe only"]
    for companion in space.get("companions", ()):
        said.append(f"`{companion}_weight` and `{companion}_temperature` (as `{companion}`'s own)")
    by_preset = [
        f"with the preset `{preset}`: {_domains(found)}" for preset, found in space.get("presets", {}).items()
    ]
    return "; ".join([", ".join(said), *by_preset])


def _domains(parameters: dict[str, Any]) -> str:
    said = []
    for key, domain in parameters.items():
        ((kind, values),) = domain.items()
        shown = ", ".join(f"{v:g}" if isinstance(v, int | float) else v for v in values)
        said.append(f"`{key}` ({kind.replace('_', '-')}: {shown})")
    return ", ".join(said)


def _balance(root: Path) -> str:
    report = json.loads((root / "benchmarks" / "balance.json").read_text(encoding="utf-8"))
    goal = next(name for name in report["rows"][0] if name.startswith("trials to"))
    columns = [name for name in report["rows"][0] if name.startswith("best of")]
    rows = [
        [
            row["pair"],
            row["method"],
            row["space"],
            *(row[name] for name in columns),
            str(row[goal] or "more than it had"),
        ]
        for row in report["rows"]
    ]
    header = ["pair", "method", "space", *columns, goal]
    fewer = [
        name for name in dict.fromkeys(row["method"] for row in report["rows"]) if _saves(report, name, goal)
    ]
    summary = (
        f"On both pairs the relative space needs fewer trials for: {', '.join(fewer) or 'none of them'}."
    )
    return _BALANCE.format(**report) + _table(header, rows, frozenset(header[3:])) + f"\n\n{summary}"


def _drift(root: Path) -> str:
    report = json.loads((root / "benchmarks" / "drift.json").read_text(encoding="utf-8"))
    rows = [
        [row["case"], f"`{row['term']}`", f"{row['start']:.3g}", f"{row['end']:.3g}", f"{row['drift']:.2g}"]
        for row in report["rows"]
    ]
    header = ["method", "term", "first steps", "last steps", "drift"]
    return _DRIFT.format(**report) + _table(header, rows, frozenset(header[2:])) + _RANGES


def _saves(report: dict[str, Any], method: str, goal: str) -> bool:
    needed = [row[goal] for row in report["rows"] if (row["method"], row["space"]) == (method, "relative")]
    own = [row[goal] for row in report["rows"] if (row["method"], row["space"]) == (method, "absolute")]
    return all(n is not None and n < o for n, o in zip(needed, own, strict=True))


def _cost(root: Path) -> str:
    report = json.loads((root / "benchmarks" / "losses.json").read_text(encoding="utf-8"))
    yardstick = {
        (row["channels"], *row["grid"]): row["ms"] for row in report["rows"] if row["loss"] in _YARDSTICKS
    }
    rows = [
        [
            row["loss"],
            str(row["channels"]),
            "×".join(map(str, row["grid"])),
            f"{row['ms']:g}",
            f"{row['ms'] / yardstick[row['channels'], *row['grid']]:.2f}",
            f"{row['mib']:g}",
            str(row["passes"]),
            str(row["fewest"]),
            f"{row['passes'] / row['fewest']:.2f}",
        ]
        for row in report["rows"]
    ]
    header = ["formula", "channels", "grid", "ms", "× KL", "peak MiB", "passes", "fewest", "ratio"]
    return (
        "## What the formulas cost\n\n"
        f"`python benchmarks/losses.py` on {report['machine']}, torch {report['torch']}: forward and backward of a batch "
        f"of {report['batch']}, float32, median of {report['repeats']} runs; peak memory above the inputs; passes are "
        "kernels that read or write a tensor at least as large as the student's map, with the fewest that the formula "
        "needs (counted by hand in that script, with the reasons). × KL is the time of a softmax-KL over maps of that "
        "size, which is `kd` on logits. Channels are K for logits, 256 for features.\n\n"
        "What passes do not show: `cirkd` and `af_dcd` multiply positions with positions, and `skd` channels with channels.\n\n"
    ) + _table(header, rows, frozenset(header[1:]))
