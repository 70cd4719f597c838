"""Builds the rows of `trials`, `curves` and `counts`. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from distill.errors import UsageError
from distill.redaction import redacted
from orchestrator.planning.method_settings import used_values
from orchestrator.planning.plan import Cohort, Trial
from orchestrator.protocol import Report

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import ArrayLike


def trial_row(
    trial: Trial, cohort: Cohort, wave: int, attempt: int, reports: Sequence[Report], *,
    run_name: str, protocol: str, family: str, provenance_id: str, world_size: int, device: str,
) -> dict[str, Any]:  # fmt: skip
    """The `trials` row of a finished trial, from all of its reports in order."""
    last = reports[-1]
    scored = [report for report in reports if report.tune_miou is not None]
    spent = last.costs
    return {
        "trial_id": trial.trial_id,
        "attempt": attempt,
        "study_id": trial.study_id,
        "cohort_id": cohort.cohort_id,
        "wave": wave,
        "phase": trial.phase,
        "status": last.status,
        "run_name": run_name,
        "dataset": trial.data,
        "protocol": protocol,
        "pair": trial.pair,
        "teacher": trial.teacher,
        "teacher_id": trial.teacher_id,
        "student": trial.student.name,
        "method": trial.title,
        "method_family": family,
        "seed": trial.seed,
        "stream_seed": trial.seed,
        "repeat": trial.repeat,
        "recipe_hash": trial.recipe_hash,
        "compare": None if trial.phase == "teacher" else trial.compare,
        "step_cost": trial.cost,
        # A loaded teacher is not trained, so no recipe was used.
        "params": {}
        if trial.phase == "teacher" and last.step == 0
        else used_values(trial.method, trial.method_config, trial.recipe),
        "searched": {name: trial.params.get(name) for name in trial.searched},
        "steps_planned": trial.recipe.steps,
        "steps_done": last.step,
        "rung_step": last.step if last.status == "pruned" else None,
        "tune_miou": scored[-1].tune_miou if scored else None,
        "test_miou": last.test_miou,
        "student_seconds": spent.student_seconds,
        "shared_seconds": spent.shared_seconds,
        "teacher_seconds": spent.teacher_seconds,
        "gpu_seconds": (spent.student_seconds + spent.shared_seconds) * world_size,
        "wall_seconds": spent.wall_seconds,
        "peak_memory_bytes": spent.peak_memory_bytes,
        "loss_final": _total(scored[-1]) if scored else None,
        "error": None if last.error is None else redacted(last.error),
        "error_step": last.step if last.status == "failed" else None,
        "remark": last.remark,
        "world_size": world_size,
        "device": device,
        "started_at": _moment(last.started_at),
        "finished_at": _moment(last.finished_at),
        "provenance_id": provenance_id,
        "checkpoint": last.checkpoint,
    }


def curve_rows(trial: Trial, reports: Sequence[Report]) -> list[dict[str, Any]]:
    """The `curves` rows of a trial: one for each score. A report that prunes the trial repeats the score of its rung."""
    scored = [report for report in reports if report.tune_miou is not None and report.status != "pruned"]
    return [
        {
            "trial_id": trial.trial_id,
            "step": report.step,
            "phase": trial.phase,
            "tune_miou": report.tune_miou,
            "lr": report.lr,
            "loss_total": _total(report),
            "terms_raw": report.terms_raw,
            "terms_weighted": report.terms_weighted,
            "student_seconds": report.costs.student_seconds,
            "shared_seconds": report.costs.shared_seconds,
            "teacher_seconds": report.costs.teacher_seconds,
        }
        for report in sorted(scored, key=lambda report: report.step)
    ]


def count_rows(
    trial_id: str,
    split: str,
    image_index: ArrayLike,
    tp: ArrayLike,
    fp: ArrayLike,
    fn: ArrayLike,
    class_names: Sequence[str] = (),
) -> pa.Table:
    """The `counts` rows of one evaluation, without rows in which tp, fp and fn are all 0.

    One row of zeros is kept for an image that has no other row, and for a class that has no other row. So the rows
    still contain every image and every class that was scored.

    Args:
        trial_id: the trial.
        split: the split that was evaluated.
        image_index: number of each image in its split, [N].
        tp: true positive pixels, [N, K].
        fp: false positive pixels, [N, K].
        fn: false negative pixels, [N, K].
        class_names: K names, or none.

    Raises:
        UsageError: the shapes do not fit.
    """
    # Imported here: the controller builds the other rows without arrays.
    import numpy as np
    import pyarrow as pa

    image_index, tp, fp, fn = (np.asarray(array, dtype=np.int64) for array in (image_index, tp, fp, fn))
    if not (tp.ndim == 2 and tp.shape == fp.shape == fn.shape and image_index.shape == tp.shape[:1]):
        raise UsageError(
            f"counts have shapes images {image_index.shape}, tp {tp.shape}, fp {fp.shape}, fn {fn.shape}; "
            "must be [N] and three times [N, K]"
        )
    kept = (tp != 0) | (fp != 0) | (fn != 0)
    if kept.size:
        kept[~kept.any(axis=1), 0] = True
        kept[0, ~kept.any(axis=0)] = True
    row, label = np.nonzero(kept)
    columns = {
        "trial_id": pa.repeat(trial_id, len(row)),
        "split": pa.repeat(split, len(row)),
        "image": pa.array(image_index[row]),
        "class": pa.array(label.astype(np.int64)),
        "tp": pa.array(tp[kept]),
        "fp": pa.array(fp[kept]),
        "fn": pa.array(fn[kept]),
    }
    if class_names:
        columns["class_name"] = pa.array(list(class_names), pa.string()).take(columns["class"])
    return pa.table(columns)


def _total(report: Report) -> float | None:
    return math.fsum(report.terms_weighted.values()) if report.terms_weighted else None


def _moment(seconds: float) -> datetime | None:
    return datetime.fromtimestamp(seconds, UTC) if seconds else None
