"""A sweep as Ray's documentation builds one: every Tune trial runs a TorchTrainer with a loader and a teacher of its own.

    python benchmarks/plain_sweep.py FILE TEACHER OUTPUT [--at-once N]

Trains the trials of the sweep file FILE and writes, by trial, when its training began and ended into OUTPUT/trials.json.
Models, losses, optimiser, data, augmentation and scores are the project's own, so that the work is the same; what is
plain is who does it. The pattern is that of "Hyperparameter Tuning with Ray Tune" in the guide of Ray Train: a driver
function in a Tuner, a trainer in the function, `TuneReportCallback` between them, and as many trials at once as the
machine has CPUs, so that none waits for another's workers (or N, which then share the CPUs). Three things are in its favour: Ray is set up as our own
command does it (no dashboard, no loggers, quick health checks), drivers take no CPU from the workers, and only the
workers import torch.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.data.config import AugmentationConfig
from orchestrator.cluster.session import LOCAL, ray_session
from orchestrator.planning.loader import load_sweep
from orchestrator.planning.plan import Trial, bracket_trials, make_plan

if TYPE_CHECKING:
    from distill.data import SegmentationDataset


def planned_trials(file: str) -> list[Trial]:
    """All students' trainings that the sweep file plans, in order; it must search nothing."""
    plan = make_plan(load_sweep(file))
    return [
        trial
        for cohort in plan.students
        for wave in cohort.waves
        for bracket in wave.brackets
        for trial in bracket_trials(plan.config, cohort, wave, bracket, {})
    ]


def random_views(pictures: SegmentationDataset, config: AugmentationConfig, seed: int) -> Any:
    """A torch data set with a random view of every picture."""
    import torch
    from torch.utils.data import Dataset

    from distill.data.augment import Augmentation

    class Views(Dataset[tuple[torch.Tensor, torch.Tensor, int]]):
        def __init__(self) -> None:
            self.augmentation = Augmentation(config, seed)
            self.drawn = 0

        def __len__(self) -> int:
            return len(pictures)

        def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor, int]:
            sample = pictures[index]
            self.drawn += 1
            image, labels = self.augmentation(sample.image_hw3, sample.labels_hw, self.drawn)
            return torch.from_numpy(image).permute(2, 0, 1), torch.from_numpy(labels), index

    return Views()


def train_student(settings: dict[str, Any]) -> None:
    """What the one worker of a trial does."""
    import tempfile
    import time

    import ray.train
    import ray.train.torch
    import torch
    from torch.utils.data import DataLoader

    from distill.data import build_dataset
    from distill.evaluation import evaluate, task_metrics
    from distill.methods import method_class
    from distill.models.teachers import load_teacher
    from distill.normalisation import normalise
    from distill.training import Batch, Student, StudentSpec, teacher_output

    torch.set_num_threads(1)
    trial: Trial = settings["trial"]
    recipe = trial.recipe
    torch.manual_seed(trial.seed)
    train, tune, test = (build_dataset(settings["data"], split) for split in ("train", "tune", "test"))
    views = random_views(train, recipe.augmentation, trial.seed)
    loader = ray.train.torch.prepare_data_loader(
        DataLoader(views, recipe.batch_size, shuffle=True, drop_last=True)
    )
    device = ray.train.torch.get_device()
    teacher = None
    if "teacher" in method_class(trial.method).card.needs:
        teacher = load_teacher(settings["teacher"]).to(device).eval().requires_grad_(False)
    spec = StudentSpec(trial.student.name, trial.student.options, trial.method, trial.method_config, recipe,
                       trial.seed, train.num_classes)  # fmt: skip
    began = time.time()
    student = Student(spec, None if teacher is None else teacher.info, device=device)
    while student.step < recipe.steps:
        for bytes_b3hw, labels_bhw, index in loader:
            images = normalise(bytes_b3hw)
            output = None if teacher is None else teacher_output(teacher, images, recipe.precision)
            student.train_step(Batch(images, labels_bhw.long(), index, output))
            if student.step == recipe.steps:
                break
    student.check()
    scores = {
        name: task_metrics(
            evaluate(student.scored_model, pictures, device=device, batch_size=recipe.batch_size)
        ).miou
        for name, pictures in (("tune_miou", tune), ("test_miou", test))
    }
    with tempfile.TemporaryDirectory() as folder:
        torch.save(student.scored_model.state_dict(), Path(folder) / "model.pt")
        told = {**scores, "trial_id": trial.trial_id, "began": began, "ended": time.time()}
        ray.train.report(told, checkpoint=ray.train.Checkpoint.from_directory(folder))


def drive_trial(settings: dict[str, Any]) -> None:
    """A Tune trial: starts the Ray Train run that trains it."""
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer
    from ray.tune import get_context
    from ray.tune.integration.ray_train import TuneReportCallback

    TorchTrainer(
        train_student,
        train_loop_config=settings,
        scaling_config=ScalingConfig(num_workers=1, resources_per_worker={"CPU": settings["cpus"]}),
        run_config=RunConfig(
            name=f"train-{get_context().get_trial_id()}",
            storage_path=settings["storage"],
            callbacks=[TuneReportCallback()],
        ),
    ).fit()


def parser_of(what: str | None) -> argparse.ArgumentParser:
    """What every way to train a sweep file's trials is told: the file, the teacher, where results go."""
    parser = argparse.ArgumentParser(description=what, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file")
    parser.add_argument("teacher", type=Path)
    parser.add_argument("output", type=Path)
    return parser


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--at-once", type=int, help="trials at once; by default as many as there are CPUs")
    options = parser.parse_args()
    config, trials = load_sweep(options.file), planned_trials(options.file)
    options.output.mkdir(parents=True)
    with ray_session(LOCAL, config.operation, verbose=False) as holdings:
        from ray import tune

        at_once = options.at_once or int(holdings.cpus)
        results = tune.Tuner(
            tune.with_resources(drive_trial, tune.PlacementGroupFactory([{"node:__internal_head__": 0.001}])),
            param_space={
                "trial": tune.grid_search(trials),
                "data": config.data[trials[0].data],
                "teacher": str(options.teacher.resolve()),
                "storage": str((options.output / "train").resolve()),
                "cpus": min(1.0, holdings.cpus / at_once),
            },
            tune_config=tune.TuneConfig(metric="tune_miou", mode="max", max_concurrent_trials=at_once),
            run_config=tune.RunConfig(
                name="tune", storage_path=str((options.output / "tune").resolve()), verbose=0
            ),
        ).fit()
        if results.errors:
            raise SystemExit(str(results.errors[0]))
        kept = ("trial_id", "tune_miou", "test_miou", "began", "ended")
        rows = [{key: result.metrics[key] for key in kept} for result in results]
        print(results.get_best_result().metrics["trial_id"])
    (options.output / "trials.json").write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
