"""Boards made of counts without rows of zeros, and of the dense counts that earlier versions wrote."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from orchestrator.leaderboard.files import write_leaderboard
from orchestrator.ledger.row_builders import count_rows
from orchestrator.ledger.tables import Ledger
from tests.orchestrator.leaderboard.synthetic import Run, write_run

NAMES = [f"class {k}" for k in range(9)]
IMAGES = np.arange(20)
EMPTY_IMAGES, EMPTY_CLASSES = [0, 7], [0, 4, 8]


def test_sparse_and_dense_counts_give_the_same_board_byte_for_byte(tmp_path: Path) -> None:
    """With images of ignored pixels only, and with classes that no image has, the first and the last among them."""
    whole = write_run(tmp_path / "whole", Run(images=20, classes=len(NAMES)))
    trials, rows = whole.read("trials"), whole.read("counts").to_pandas()
    tables: dict[str, list[pa.Table]] = {"sparse": [], "dense": []}
    for trial_id, mine in rows.groupby("trial_id"):
        tp, fp, fn = (_thinned(mine, column) for column in ("tp", "fp", "fn"))
        tables["sparse"].append(count_rows(str(trial_id), "test", IMAGES, tp, fp, fn, NAMES))
        tables["dense"].append(_dense(str(trial_id), tp, fp, fn))
    boards = {}
    for kind, parts in tables.items():
        ledger = Ledger(tmp_path / kind / "run")
        ledger.append("trials", trials, "trials")
        for table in ("models", "provenance"):
            ledger.append(table, whole.read(table), table)
        ledger.append("counts", pa.concat_tables(parts), "counts")
        write_leaderboard([ledger])
        folder = tmp_path / kind / "run" / "leaderboard"
        boards[kind] = {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    sparse, dense = (Ledger(tmp_path / kind / "run").read("counts") for kind in ("sparse", "dense"))
    assert sparse.num_rows < dense.num_rows / 2
    assert {*sparse["image"].to_pylist()} == {*IMAGES}
    assert len(boards["sparse"]) > 5
    assert boards["sparse"] == boards["dense"]


def _thinned(rows: pd.DataFrame, column: str) -> np.ndarray:
    """The counts [N, K] with about three classes an image; some images and some classes have no pixels."""
    counts = rows.pivot_table(index="image", columns="class", values=column).to_numpy(dtype=np.int64).copy()
    counts[(np.add.outer(IMAGES, np.arange(len(NAMES))) % 3) != 0] = 0
    counts[EMPTY_IMAGES] = 0
    counts[:, EMPTY_CLASSES] = 0
    return counts


def _dense(trial_id: str, tp: np.ndarray, fp: np.ndarray, fn: np.ndarray) -> pa.Table:
    """All N·K rows, as versions before this one wrote them."""
    images, classes = tp.shape
    return pa.table(
        {
            "trial_id": [trial_id] * (images * classes),
            "split": ["test"] * (images * classes),
            "image": np.repeat(IMAGES, classes),
            "class": np.tile(np.arange(classes), images),
            "tp": tp.reshape(-1),
            "fp": fp.reshape(-1),
            "fn": fn.reshape(-1),
            "class_name": NAMES * images,
        }
    )
