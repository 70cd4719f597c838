"""Files of model weights in a run: their paths, and how they are written and read. torch is imported on first use."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.ledger.tables import Ledger
from orchestrator.planning.plan import Trial
from orchestrator.planning.planned_models import Teacher

if TYPE_CHECKING:
    import torch

    from distill.data import SegmentationDataset
    from distill.models.teachers import TeacherNetwork
    from distill.training import Student


def teacher_path(teacher_id: str) -> str:
    """Path of a teacher's weights, relative to the run."""
    return f"teachers/{teacher_id}.safetensors"


def is_whole(ledger: Ledger, path: str) -> bool:
    """Whether a safetensors file is as long as its header says. Reads the header only, on a disk."""
    try:
        with ledger.local_file(path) as local, local.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(size))
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
            return local.stat().st_size == 8 + size + max(ends, default=0)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, MemoryError):
        return False


def teacher_weights(teacher: Teacher) -> str:
    """Path of a teacher's weights, relative to the run. It contains the teacher's id, so a resumed run finds it."""
    return teacher_path(teacher.teacher_id)


def trial_weights(trial: Trial) -> str:
    """Path of a trial's weights, relative to the run."""
    return (
        teacher_path(trial.study_id) if trial.phase == "teacher" else f"models/{trial.trial_id}.safetensors"
    )


def save_student_model(
    ledger: Ledger, trial: Trial, student: Student, dataset: SegmentationDataset, licence: str | None
) -> None:
    """Write a trained model with what its users need: classes, colours, sliding window, data set, trial."""
    from distill.models import CheckpointMetadata, save_model

    recipe = trial.recipe
    window = recipe.sliding_window
    metadata = CheckpointMetadata(
        tuple(dataset.classes),
        palette=tuple(dataset.palette),
        window=None if window is None else {"size": window.size, "stride": window.stride},
        notes={
            "trial_id": trial.trial_id,
            "dataset": dataset.name,
            "pair": trial.pair,
            "method": trial.title,
            "seed": trial.seed,
            "licence": licence,
            "crop": list(recipe.augmentation.crop),
            "precision": recipe.precision,
        },
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        save_model(path, student.scored_model, metadata)
        ledger.write_bytes(trial_weights(trial), path.read_bytes())


def load_saved_model(
    ledger: Ledger, path: str, program_sha256: str | None, device: torch.device | str
) -> TeacherNetwork:
    """Load a model of the run for inference on `device`; its parameters are frozen.

    Args:
        ledger: the run.
        path: path of the file, relative to the run.
        program_sha256: hash that the config gives for an exported program. A program with another hash is not loaded.
        device: where to put the model.
    """
    from distill.models.teachers import load_teacher

    with ledger.local_file(path) as local:
        return load_teacher(local, program_sha256).to(device)
