"""The schema of the ledger's tables: every column with its type, unit and meaning, for code and docs alike.

`python -m orchestrator.ledger.schema > docs/tables.md` writes the documentation of the tables.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from distill.errors import unknown
from orchestrator.planning.plan import PHASES

if TYPE_CHECKING:
    import pyarrow as pa

SCHEMA_VERSION = 1
LARGEST_INTEGER = 2**63 - 1
PARAMETER_PREFIX = "param_"

_TEXT, _INT, _REAL, _FLAG, _TIME, _JSON = "string", "int64", "float64", "bool", "timestamp", "json"
_TEXTS, _REALS, _PARAMS = "map<string, string>", "map<string, float64>", "map<string, json>"


@dataclass(frozen=True)
class Column:
    """One column: `type` is a key of `arrow_type`; `unit` is empty for text and for plain counts."""

    name: str
    type: str
    meaning: str
    unit: str = ""
    choices: tuple[str, ...] = ()
    maximum: int | None = None

    @property
    def value_range(self) -> tuple[float, float] | None:
        """Smallest and largest allowed value; None if every value is allowed, such as an infinite or nan loss."""
        if self.type == _INT:
            return 0, LARGEST_INTEGER if self.maximum is None else self.maximum
        if self.type != _REAL or not self.unit:
            return None
        return (0.0, 1.0) if self.unit == "0 to 1" else (-sys.float_info.max, sys.float_info.max)


@dataclass(frozen=True)
class Table:
    """One table: `key` names the columns that identify a row; none of them may be null."""

    name: str
    meaning: str
    key: tuple[str, ...]
    columns: tuple[Column, ...]

    def column(self, name: str) -> Column:
        """The column of that name; raises `UsageError` with the most similar known name."""
        for column in self.columns:
            if column.name == name:
                return column
        raise unknown(f"column of table {self.name}", name, [column.name for column in self.columns])


_TRIALS = Table(
    "trials",
    "One row per finished attempt at a trial: what was trained, its result and its cost.",
    ("trial_id", "attempt"),
    (
        Column("trial_id", _TEXT, "hash of everything that determines the trial's result"),
        Column(
            "attempt",
            _INT,
            "1 for the first attempt, plus 1 each time the trial is trained again; only the highest one is used",
        ),
        Column("study_id", _TEXT, "the study (pair × method) that the trial belongs to"),
        Column(
            "cohort_id",
            _TEXT,
            "the cohort (trials with one teacher and one stream of batches) that it was trained in",
        ),
        Column("wave", _INT, "number of the wave within the cohort"),
        Column("phase", _TEXT, "the phase of the sweep", choices=PHASES),
        Column("status", _TEXT, "how it ended", choices=("ok", "pruned", "failed")),
        Column("run_name", _TEXT, "name of the run"),
        Column("dataset", _TEXT, "the data set"),
        Column(
            "protocol", _TEXT, "`clean` (tuned on tune, scored once on test) or `paper` (not leakage-free)"
        ),
        Column("pair", _TEXT, "the teacher → student pair"),
        Column("teacher", _TEXT, "the teacher model's name"),
        Column("teacher_id", _TEXT, "trial id of the teacher, or its checkpoint's id"),
        Column("student", _TEXT, "the student model's name"),
        Column("method", _TEXT, "the distillation method; `student` is the student alone"),
        Column("method_family", _TEXT, "family of the method, from its card"),
        Column("seed", _INT, "seed of initialisation and data order"),
        Column(
            "repeat",
            _INT,
            "number of the search of its study, from 0; null in tables of versions that searched each study once",
        ),
        Column("stream_seed", _INT, "seed of the cohort's stream of batches"),
        Column(
            "recipe_hash",
            _TEXT,
            "hash of the recipe; only rows of one recipe hash and of one `compare` are ranked together",
        ),
        Column(
            "compare",
            _TEXT,
            "what all methods of its board have equally much of; null for a teacher, and in tables of versions that had equal "
            "steps only",
            choices=("steps", "seconds"),
        ),
        Column(
            "step_cost",
            _REAL,
            "time of one step of the method, with the teacher's forward pass, over that of the student alone; it has decided "
            "`steps_planned`. Null if `compare` is not `seconds`",
        ),
        Column(
            "params",
            _PARAMS,
            "every setting of the method, and of the recipe as `recipe.NAME`, with the value that was used, searched or "
            "not, as JSON; where `searched` is null (an earlier version), only what `searched` has now",
        ),
        Column(
            "searched",
            _PARAMS,
            "the searched settings with what the search drew for them, as JSON: null in the trial of the defaults, and a "
            "factor of the recipe's value for `scale_log_uniform`",
        ),
        Column("steps_planned", _INT, "planned training steps", "steps"),
        Column("steps_done", _INT, "training steps done", "steps"),
        Column("rung_step", _INT, "the rung at which it was pruned; null if it was not pruned", "steps"),
        Column("tune_miou", _REAL, "last mIoU on the tune split", "0 to 1"),
        Column("test_miou", _REAL, "mIoU on the test split; null outside the final phase", "0 to 1"),
        Column("student_seconds", _REAL, "the student's own time: forward, loss, backward, optimiser", "s"),
        Column("shared_seconds", _REAL, "its share of the cohort's teacher and data time", "s"),
        Column(
            "teacher_seconds",
            _REAL,
            "the teacher's full forward time over this trial's steps, which the method would need if it were "
            "trained alone; 0 for a method without a teacher",
            "s",
        ),
        Column(
            "gpu_seconds", _REAL, "`student_seconds` plus `shared_seconds`, times the number of workers", "s"
        ),
        Column(
            "wall_seconds",
            _REAL,
            "time during which its wave was being trained, up to its last report; the time between two commands is not in it",
            "s",
        ),
        Column(
            "peak_memory_bytes",
            _INT,
            "the student's own peak on a GPU, on one worker: weights, gradients, the optimiser's state and averages, and what "
            "its own steps allocate beside them (activations, loss, work spaces); not in it: the batch, the teacher and the "
            "other students. Null on a CPU, where it is not measured; up to version 0.1.0 the peak of the whole process",
            "bytes",
        ),
        Column("loss_final", _REAL, "the last reported total loss"),
        Column("error", _TEXT, "the error message; null if it did not fail"),
        Column("error_step", _INT, "the step at which it failed", "steps"),
        Column("remark", _TEXT, "a deviation from the plan; null if there was none"),
        Column("world_size", _INT, "data-parallel workers"),
        Column("device", _TEXT, "the device it was trained on"),
        Column("started_at", _TIME, "start of its first step", "UTC"),
        Column("finished_at", _TIME, "end of the trial", "UTC"),
        Column("provenance_id", _TEXT, "the row of `provenance` with code, config and versions"),
        Column("checkpoint", _TEXT, "path of its weights, relative to the run; null if they were not kept"),
    ),
)

_CURVES = Table(
    "curves",
    "One row per report of a trial.",
    ("trial_id", "step"),
    (
        Column("trial_id", _TEXT, "the trial"),
        Column("step", _INT, "optimiser steps done at the report", "steps"),
        Column("phase", _TEXT, "the trial's phase", choices=PHASES),
        Column(
            "tune_miou",
            _REAL,
            "mIoU on the tune split; null if the report has no evaluation",
            "0 to 1",
        ),
        Column("lr", _REAL, "learning rate of the last step"),
        Column("loss_total", _REAL, "total loss, mean over the steps since the last report"),
        Column("terms_raw", _REALS, "each term of the loss before its weight"),
        Column("terms_weighted", _REALS, "each term of the loss times its weight"),
        Column("student_seconds", _REAL, "the student's own time since the start of the trial", "s"),
        Column(
            "shared_seconds", _REAL, "its share of teacher and data time since the start of the trial", "s"
        ),
        Column(
            "teacher_seconds",
            _REAL,
            "the teacher's full forward time since the start of the trial; 0 for a method without a teacher",
            "s",
        ),
    ),
)

_COUNTS = Table(
    "counts",
    "Pixel counts of every teacher and final run, per image and class. Every mIoU and every interval over images is "
    "computed from them. Rows in which tp, fp and fn are all 0 are left out, except that every scored image and every class of the"
    " data set has at least one row. Runs of earlier versions have all rows.",
    ("trial_id", "split", "image", "class"),
    (
        Column("trial_id", _TEXT, "the trial"),
        Column("split", _TEXT, "the split that was evaluated", choices=("train", "tune", "test")),
        Column("image", _INT, "number of the image in its split"),
        Column("class", _INT, "number of the class", maximum=254),
        Column("tp", _INT, "true positives", "pixels"),
        Column("fp", _INT, "false positives", "pixels"),
        Column("fn", _INT, "false negatives", "pixels"),
        Column("class_name", _TEXT, "name of the class"),
    ),
)

_MODELS = Table(
    "models",
    "Size and speed of every student and teacher that was scored on test.",
    ("name", "options", "num_classes", "height", "width", "device"),
    (
        Column("name", _TEXT, "the model's name, `head-backbone`"),
        Column("options", _JSON, "options it was built with"),
        Column("num_classes", _INT, "number of classes"),
        Column("params", _INT, "trainable parameters"),
        Column("flops", _INT, "floating point operations of one forward pass of one image", "FLOPs"),
        Column("height", _INT, "height of the image used for the measurement", "pixels"),
        Column("width", _INT, "width of the image used for the measurement", "pixels"),
        Column("latency_ms", _REAL, "median time of one forward pass of one image", "ms"),
        Column("device", _TEXT, "the device used for the measurement"),
    ),
)

_PROVENANCE = Table(
    "provenance",
    "The origin of rows: code, config, versions, hardware.",
    ("provenance_id",),
    (
        Column("provenance_id", _TEXT, "hash of the row"),
        Column("commit", _TEXT, "git commit of the code"),
        Column("dirty", _FLAG, "whether the code had uncommitted changes"),
        Column("config_yaml", _TEXT, "the complete resolved config"),
        Column("config_hash", _TEXT, "hash of the config"),
        Column("plan_hash", _TEXT, "hash of the plan"),
        Column("versions", _TEXTS, "library → version"),
        Column("hardware", _JSON, "machine, accelerators, memory"),
        Column("teacher_sha256", _TEXTS, "teacher → sha256 of its checkpoint"),
        Column(
            "pretrained_weights",
            _JSON,
            "`PAIR.teacher` or `PAIR.student` → file of its backbone's weights: path, sha256, key in the file, vocabulary of "
            "its names, number of tensors loaded and of others; only the path if the driver cannot read the file",
        ),
        Column("command", _TEXT, "the command that reproduces the rows"),
        Column("created_at", _TIME, "start of the run", "UTC"),
        Column("schema_version", _INT, "version of these tables"),
    ),
)

TABLES: dict[str, Table] = {table.name: table for table in (_TRIALS, _CURVES, _COUNTS, _MODELS, _PROVENANCE)}


def table_named(name: str) -> Table:
    """The table of that name; raises `UsageError` with the most similar known name."""
    if name not in TABLES:
        raise unknown("table", name, TABLES)
    return TABLES[name]


def arrow_type(kind: str) -> pa.DataType:
    """The Arrow type of a column's `type`; JSON is stored as text, which every Parquet reader supports."""
    import pyarrow as pa

    types = {
        _TEXT: pa.string(),
        _INT: pa.int64(),
        _REAL: pa.float64(),
        _FLAG: pa.bool_(),
        _TIME: pa.timestamp("us", tz="UTC"),
        _JSON: pa.string(),
        _TEXTS: pa.map_(pa.string(), pa.string()),
        _REALS: pa.map_(pa.string(), pa.float64()),
        _PARAMS: pa.map_(pa.string(), pa.string()),
    }
    return types[kind]


def arrow_schema(table: Table) -> pa.Schema:
    """The table's Arrow schema, without `param_*` columns; each field's metadata has its unit and meaning."""
    import pyarrow as pa

    return pa.schema(
        pa.field(
            column.name,
            arrow_type(column.type),
            nullable=column.name not in table.key,
            metadata={"unit": column.unit, "meaning": column.meaning},
        )
        for column in table.columns
    )


def markdown() -> str:
    """The documentation of all tables, as Markdown."""
    lines = [
        "# The ledger's tables",
        "",
        "Generated by `python -m orchestrator.ledger.schema > docs/tables.md` from `orchestrator/ledger/schema.py`.",
        f"Schema version {SCHEMA_VERSION}.",
        "",
        "Each table is a folder `<run>/tables/<table>/` of immutable Parquet files. To read one:",
        "",
        "```python",
        'pandas.read_parquet("run/tables/trials")',
        'polars.scan_parquet("run/tables/trials/*.parquet", missing_columns="insert")',
        "duckdb.sql(\"from read_parquet('run/tables/trials/*.parquet', union_by_name = true)\")",
        "```",
        "",
        "`trials`, `curves` and `counts` are compacted to one file each at the end of a run, and every few hundred "
        "trials before. During a compaction some rows are in two files for a moment: "
        "`orchestrator.ledger.tables.Ledger(run).read(table)` always gives each row once. Files whose names "
        "begin with a dot are not data.",
    ]
    for table in TABLES.values():
        lines += [
            "",
            f"## {table.name}",
            "",
            table.meaning,
            "",
            f"Key: {', '.join(f'`{k}`' for k in table.key)}.",
        ]
        lines += ["", "| column | type | unit | meaning |", "| --- | --- | --- | --- |"]
        for column in table.columns:
            meaning = column.meaning
            if column.choices:
                meaning += f" ({', '.join(f'`{choice}`' for choice in column.choices)})"
            lines.append(f"| `{column.name}` | {column.type} | {column.unit} | {meaning} |")
        if table.name == "trials":
            lines.append(
                f"| `{PARAMETER_PREFIX}<name>` | float64 or string | | "
                "one column per hyper-parameter: float64 if all values are numbers, otherwise text |"
            )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(markdown(), end="")
