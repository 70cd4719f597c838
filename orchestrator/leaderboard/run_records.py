"""Reads the tables of one or more runs for the leaderboard: latest attempts, counts, models, provenance."""

from __future__ import annotations

import datetime
import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy import sparse

from orchestrator.leaderboard.statistics import Integers, Reals, class_iou, mean_iou
from orchestrator.ledger.queries import latest_attempts, parameters_of, resuming_command
from orchestrator.ledger.recorded import choices_of
from orchestrator.ledger.tables import Ledger
from orchestrator.planning.equal_seconds import STEPS
from orchestrator.planning.pair_names import NamedPair, short_pair_names

_BEGINNING = datetime.datetime.min.replace(tzinfo=datetime.UTC)


@dataclass(frozen=True)
class TrialRecord:
    """The latest attempt of a trial. The fields are columns of `trials`; `run` is the index of its ledger.

    `former` is True for a final run of a configuration that is not the choice of its study any more, and `undecided` for
    one whose study goes on searching: both are in runs that have grown only. `searched` is None in a row of an earlier
    version, whose `params` has the searched values only.
    """

    run: int
    former: bool
    undecided: bool
    run_name: str
    trial_id: str
    attempt: int
    study_id: str
    phase: str
    status: str
    dataset: str
    protocol: str
    pair: str
    teacher: str
    teacher_id: str
    student: str
    method: str
    method_family: str
    seed: int
    repeat: int
    recipe_hash: str
    compare: str
    step_cost: float | None
    params: Mapping[str, Any]
    searched: Mapping[str, Any] | None
    steps_planned: int | None
    steps_done: int | None
    tune_miou: float | None
    test_miou: float | None
    student_seconds: float | None
    teacher_seconds: float | None
    gpu_seconds: float | None
    peak_memory_bytes: int | None
    error: str | None
    error_step: int | None
    finished_at: datetime.datetime | None
    provenance_id: str
    checkpoint: str

    @property
    def drawn(self) -> Mapping[str, Any]:
        """What the search drew for each searched setting; None at the defaults."""
        return self.params if self.searched is None else self.searched

    @property
    def time_key(self) -> tuple[datetime.datetime, str]:
        """Sort key: the end of the trial, then its id."""
        return self.finished_at or _BEGINNING, self.trial_id


@dataclass(frozen=True)
class ImageCounts:
    """Test counts of one run. `matrix` is [N, 3K]: row n has the tp, then the fp, then the fn of image `images[n]`."""

    images: Integers
    classes: int
    matrix: sparse.csr_array

    def _summed(self) -> tuple[Reals, Reals, Reals]:
        tp, fp, fn = np.asarray(self.matrix.sum(axis=0), dtype=np.float64).reshape(3, self.classes)
        return tp, fp, fn

    def miou(self) -> float:
        """mIoU of the summed counts, over the classes that occur in the labels."""
        return float(mean_iou(*self._summed()))

    def per_class(self) -> Reals:
        """IoU of each class, [K]; nan for a class that no label has."""
        return class_iou(*self._summed())

    def labelled(self) -> tuple[int, ...]:
        """The classes that occur in the labels: those that are scored."""
        tp, _, fn = self._summed()
        return tuple(int(label) for label in np.flatnonzero(tp + fn))


@dataclass(frozen=True)
class ModelRecord:
    """A row of `models`."""

    name: str
    options: Mapping[str, Any]
    num_classes: int
    params: int | None
    flops: int | None
    latency_ms: float | None
    device: str


@dataclass(frozen=True)
class ProvenanceRecord:
    """A row of `provenance`; `run` is the index of its ledger."""

    provenance_id: str
    run: int
    commit: str | None
    dirty: bool
    config_yaml: str
    config_hash: str
    teacher_sha256: Mapping[str, str]
    command: str
    versions: Mapping[str, str]
    hardware: Mapping[str, Any]
    created_at: datetime.datetime | None


@dataclass(frozen=True)
class RunRecords:
    """The tables of all ledgers. The order of each sequence depends on ids only."""

    roots: tuple[str, ...]
    trials: tuple[TrialRecord, ...]
    counts: Mapping[str, ImageCounts]
    class_names: Mapping[str, Mapping[int, str]]
    models: tuple[ModelRecord, ...]
    provenance: Mapping[str, ProvenanceRecord]

    @functools.cached_property
    def short_pairs(self) -> Mapping[str, str]:
        """The short name of each pair, for pages."""
        return short_pair_names(
            NamedPair(t.pair, t.teacher, t.student) for t in self.trials if t.phase != "teacher"
        )


def read_run_records(ledgers: Sequence[Ledger]) -> RunRecords:
    """Read the tables. If several ledgers have the same attempt or model, the row of the first one is used."""
    rows = [{**row, "run": run} for run, ledger in enumerate(ledgers) for row in _trial_rows(ledger)]
    trials = {row["trial_id"]: _trial(row) for row in latest_attempts(rows)}
    models: dict[tuple[Any, ...], ModelRecord] = {}
    provenance: dict[str, ProvenanceRecord] = {}
    for run, ledger in enumerate(ledgers):
        for row in ledger.read("models").to_pylist():
            record = _record(ModelRecord, {**row, "options": json.loads(row["options"] or "{}")})
            models.setdefault((row["name"], row["options"], row["num_classes"], row["device"]), record)
        for row in ledger.read("provenance").to_pylist():
            row["dirty"] = bool(row["dirty"])
            row["command"] = resuming_command(row["command"] or "")
            row["versions"] = dict(row["versions"] or ())
            row["teacher_sha256"] = dict(row["teacher_sha256"] or ())
            row["hardware"] = json.loads(row["hardware"] or "{}")
            provenance.setdefault(row["provenance_id"], _record(ProvenanceRecord, {**row, "run": run}))
    scored = {i: trial for i, trial in trials.items() if trial.phase in ("final", "teacher")}
    counts, names = _counts(ledgers, scored)
    return RunRecords(
        roots=tuple(ledger.root for ledger in ledgers),
        trials=tuple(trials.values()),
        counts=counts,
        class_names=names,
        models=tuple(models[key] for key in sorted(models, key=repr)),
        provenance=dict(sorted(provenance.items())),
    )


def _trial_rows(ledger: Ledger) -> list[dict[str, Any]]:
    names = [name for name in TrialRecord.__dataclass_fields__ if name not in ("run", "former", "undecided")]
    choices = choices_of(ledger)
    return [
        {
            **row,
            "former": row["trial_id"] in choices.former,
            "undecided": row["phase"] == "final" and row["study_id"] in choices.undecided,
        }
        for row in ledger.read("trials", names).to_pylist()
    ]


def _trial(row: Mapping[str, Any]) -> TrialRecord:
    """A row as a record; a table of an older version has no `repeat` and `compare`: one search, and equal steps."""
    searched = None if row["searched"] is None else parameters_of(row["searched"])
    changed = {"params": parameters_of(row["params"]), "searched": searched, "repeat": row["repeat"] or 0,
               "compare": row["compare"] or STEPS}  # fmt: skip
    record: TrialRecord = _record(TrialRecord, {**row, **changed})
    return record


def _record(kind: type[Any], row: Mapping[str, Any]) -> Any:
    """A record of the row's fields. Null text becomes empty text, so that it can be sorted and grouped."""
    values = {}
    for name, declared in kind.__annotations__.items():
        value = row[name]
        values[name] = "" if value is None and declared == "str" else value
    return kind(**values)


def _counts(
    ledgers: Sequence[Ledger], scored: Mapping[str, TrialRecord]
) -> tuple[dict[str, ImageCounts], dict[str, dict[int, str]]]:
    """Test counts by scored trial, and class names by data set. Rows of zeros may be missing (`count_rows`)."""
    tables = []
    wanted = set(scored)
    for ledger in ledgers:
        table = ledger.read("counts")
        mine = pc.is_in(table.column("trial_id"), pa.array(sorted(wanted), pa.string()))
        tables.append(table.filter(pc.and_(pc.equal(table.column("split"), "test"), mine)))
        wanted -= set(pc.unique(tables[-1].column("trial_id")).to_pylist())
    table = pa.concat_tables(tables).sort_by("trial_id").combine_chunks()
    names: dict[str, dict[int, str]] = {}
    for row in table.group_by(["trial_id", "class", "class_name"]).aggregate([]).to_pylist():
        if row["class_name"] is not None:
            names.setdefault(scored[row["trial_id"]].dataset, {}).setdefault(row["class"], row["class_name"])
    code = table.column("trial_id").combine_chunks().dictionary_encode()
    ids = code.dictionary.to_pylist()
    edges = np.searchsorted(code.indices.to_numpy(), np.arange(len(ids) + 1))
    image, label, tp, fp, fn = (table.column(c).to_numpy() for c in ("image", "class", "tp", "fp", "fn"))
    slices = {trial_id: slice(edges[i], edges[i + 1]) for i, trial_id in enumerate(ids)}
    classes: dict[str, int] = {}
    for trial_id, rows in slices.items():
        dataset = scored[trial_id].dataset
        classes[dataset] = max(classes.get(dataset, 0), int(label[rows].max()) + 1)
    found = {}
    for trial_id, rows in slices.items():
        width = classes[scored[trial_id].dataset]
        images, number = np.unique(image[rows], return_inverse=True)
        columns = np.concatenate([label[rows] + part * width for part in range(3)])
        values = np.concatenate([tp[rows], fp[rows], fn[rows]]).astype(np.float64)
        matrix = sparse.csr_array((values, (np.tile(number, 3), columns)), shape=(len(images), 3 * width))
        found[trial_id] = ImageCounts(images, width, matrix)
    return found, names
