"""A run's tables as a sweep would leave them, with known effects, drawn from a seed."""

from __future__ import annotations

import datetime
import itertools
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from orchestrator.ledger.row_builders import count_rows
from orchestrator.ledger.tables import Ledger

START = datetime.datetime(2026, 3, 1, tzinfo=datetime.UTC)
PIXELS = 1000


@dataclass(frozen=True)
class Run:
    """What the synthetic sweep did. `gains` are shares of pixels a method gets right beyond the student."""

    gains: Mapping[str, float] = field(default_factory=lambda: {"student": 0.0, "kd": 0.02, "cwd": 0.1})
    pairs: tuple[str, ...] = ("big_to_small", "wide_to_thin")
    seeds: tuple[int, ...] = (1, 2, 3)
    """Final seeds of the first search; those of search r are larger by 10 r."""
    searches: int = 1
    luck: float = 0.0
    """Standard deviation of what a search adds to the gain of its method."""
    trials: int = 4
    images: int = 12
    classes: int = 3
    dataset: str = "scenes"
    protocol: str = "clean"
    recipe: str = "r0"
    compare: str | None = None
    """None: as in tables of versions that had equal steps only."""
    dirty: bool = False
    teacher_miou: float = 0.8
    with_counts: bool = True
    with_models: bool = True
    failed: frozenset[tuple[str, str, int]] = frozenset()
    left_out: frozenset[tuple[str, str, int]] = frozenset()
    searched_only: frozenset[str] = frozenset()
    clock: float = 1.0
    """Multiplies every measured time and memory, and nothing else."""
    config_yaml: str = ""
    name: str = "run"

    def but(self, **changes: object) -> Run:
        return replace(self, **changes)  # type: ignore[arg-type]


def write_run(root: Path, run: Run) -> Ledger:
    """Write the run's tables, one file each."""
    ledger = Ledger(root)
    trials, counts = [], []
    for pair in run.pairs:
        trials.append(_teacher(run, pair))
        for method in run.gains:
            trials += _search(run, pair, method)
            for repeat, seed in itertools.product(range(run.searches), run.seeds):
                place = method, pair, seed + 10 * repeat
                if method not in run.searched_only and place not in run.left_out:
                    row, table = _final(run, pair, method, place[2], repeat)
                    trials.append(row)
                    counts += [table] if table is not None else []
    ledger.append("trials", trials, "trials")
    ledger.append("curves", [row for trial in trials for row in _curve(run, trial)], "curves")
    ledger.append("provenance", [_provenance(run)], "provenance")
    ledger.append("models", list(_models(run)) if run.with_models else [], "models")
    if counts:
        ledger.append("counts", pa.concat_tables(counts), "counts")
    return ledger


def _basis(run: Run) -> list[str]:
    return [run.compare] if run.compare else []


def _identity(*parts: object) -> str:
    return f"{zlib.crc32(repr(parts).encode()):08x}"


def _common(run: Run, pair: str, method: str) -> dict[str, object]:
    teacher, student = pair.split("_to_")
    return {
        "attempt": 1,
        "study_id": f"{pair}.{method}",
        "run_name": run.name,
        "dataset": run.dataset,
        "protocol": run.protocol,
        "pair": pair,
        "teacher": teacher,
        "teacher_id": f"teacher-{teacher}",
        "student": student,
        "method": method,
        "method_family": {"student": "baseline", "kd": "logits", "cwd": "logits"}.get(method, "features"),
        "recipe_hash": f"{run.recipe}-{student}",
        **({"compare": run.compare} if run.compare else {}),
        **({"step_cost": 1.0 if method == "student" else 2.0} if run.compare == "seconds" else {}),
        "steps_planned": 50 if run.compare == "seconds" and method != "student" else 100,
        "steps_done": 100,
        "world_size": 1,
        "device": "cpu",
        "provenance_id": f"p-{run.name}",
    }


def _times(run: Run, method: str, order: float) -> dict[str, object]:
    ended = START + datetime.timedelta(seconds=60 * order)
    return {
        "student_seconds": 10.0 * run.clock,
        "shared_seconds": 1.0 * run.clock,
        "teacher_seconds": (0.0 if method == "student" else 5.0) * run.clock,
        "gpu_seconds": 11.0 * run.clock,
        "wall_seconds": 20.0 * run.clock,
        "peak_memory_bytes": int(2e9 * run.clock),
        "started_at": ended - datetime.timedelta(seconds=20),
        "finished_at": ended,
    }


def _params(method: str, unit: float) -> dict[str, float]:
    return {"recipe.lr": 0.25 * 16**unit} if method == "student" else {"weight": 0.1 * 100**unit}


def _search(run: Run, pair: str, method: str) -> Iterable[dict[str, object]]:
    generator = np.random.default_rng([1, zlib.crc32(repr((pair, method)).encode())])
    for trial in range(run.trials):
        status = "pruned" if trial % 4 == 3 else "ok"
        yield {
            **_common(run, pair, method),
            **_times(run, method, trial),
            "trial_id": "s" + _identity(pair, method, trial, run.recipe, run.protocol, *_basis(run)),
            "phase": "search",
            "status": status,
            "seed": 0,
            "rung_step": 50 if status == "pruned" else None,
            "params": _params(method, (trial + 0.5) / run.trials),
            "tune_miou": 0.5 + run.gains[method] + 0.02 * generator.standard_normal(),
        }


def _final(
    run: Run, pair: str, method: str, seed: int, repeat: int
) -> tuple[dict[str, object], pa.Table | None]:
    trial_id = "f" + _identity(pair, method, seed, run.recipe, run.protocol, run.dataset, *_basis(run))
    row = {
        **_common(run, pair, method),
        **_times(run, method, 100 + seed),
        "trial_id": trial_id,
        "phase": "final",
        "status": "ok",
        "seed": seed,
        "params": _params(method, 0.5),
        **({"repeat": repeat} if run.searches > 1 else {}),
    }
    if (method, pair, seed) in run.failed:
        return {
            **row,
            "status": "failed",
            "error": "Traceback\nValueError: the loss is nan",
            "error_step": 7,
        }, None
    generator = np.random.default_rng([4, zlib.crc32(repr((pair, method)).encode()), repeat])
    gain = run.gains[method] + run.luck * float(generator.standard_normal())
    tp, fp, fn = draw_counts(run, pair, gain, seed, method)
    row["test_miou"] = float(np.mean(tp.sum(0) / (tp + fp + fn).sum(0)))
    known = ("road", "sky", "tree", "car", "sign")
    names = [*known, *(f"class {k}" for k in range(len(known), run.classes))][: run.classes]
    table = count_rows(trial_id, "test", range(run.images), tp, fp, fn, names)
    return row, table if run.with_counts else None


def _curve(run: Run, trial: Mapping[str, object]) -> Iterable[dict[str, object]]:
    """Reports of a training that learns fast at first; a pruned one ends half-way."""
    reached = trial.get("tune_miou") or trial.get("test_miou") or 0.5
    assert isinstance(reached, float)
    last = 50 if trial["status"] == "pruned" else 100
    for step in range(10, last + 1, 10):
        share = 1 - 0.7 ** (step / 10)
        yield {
            "trial_id": trial["trial_id"],
            "step": step,
            "phase": trial["phase"],
            "tune_miou": reached * share,
            "loss_total": 3.0 - 2.5 * share,
        }


def _teacher(run: Run, pair: str) -> dict[str, object]:
    teacher = pair.split("_to_")[0]
    return {
        **_common(run, pair, "teacher"),
        **_times(run, "student", 0),
        "trial_id": f"t-{teacher}-{run.dataset}-{run.protocol}",
        "study_id": f"teacher-{teacher}",
        "teacher_id": None,
        "student": teacher,
        "method_family": "teacher",
        "phase": "teacher",
        "status": "ok",
        "seed": 0,
        "test_miou": run.teacher_miou,
        "params": {},
    }


def draw_counts(
    run: Run, pair: str, gain: float, seed: int, method: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Counts [N, K]: pictures are easy or hard for all methods alike, and seeds move all methods alike."""
    shared = np.random.default_rng([2, zlib.crc32(pair.encode()), seed])
    own = np.random.default_rng([3, zlib.crc32(repr((pair, method, seed)).encode())])
    size = (run.images, run.classes)
    right = 0.55 + gain + 0.05 * shared.standard_normal() + 0.1 * shared.standard_normal(size)
    right = np.clip(right + 0.01 * own.standard_normal(size), 0.01, 0.99)
    tp = np.round(PIXELS * right).astype(np.int64)
    fn = PIXELS - tp
    return tp, np.roll(fn, 1, axis=1), fn


def _models(run: Run) -> Iterable[dict[str, object]]:
    for place, student in enumerate(sorted({pair.split("_to_")[1] for pair in run.pairs})):
        yield {
            "name": student,
            "options": {},
            "num_classes": run.classes,
            "params": 3_200_000 * (place + 1),
            "flops": 4_000_000_000 * (place + 1),
            "height": 64,
            "width": 64,
            "latency_ms": 12.5 * run.clock,
            "device": "cpu",
        }


def _provenance(run: Run) -> dict[str, object]:
    return {
        "provenance_id": f"p-{run.name}",
        "commit": "0" * 40,
        "dirty": run.dirty,
        "config_yaml": run.config_yaml,
        "command": f"python -m orchestrator.sweep {run.name}.yaml",
        "created_at": START,
        "schema_version": 1,
    }
