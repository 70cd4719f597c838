"""Files of pretrained weights are checked before the start, and their origin is in the ledger."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from distill.errors import UsageError
from orchestrator.cluster.provenance import provenance_row
from orchestrator.controller.pretrained import check_pretrained, pretrained_weights
from orchestrator.ledger.tables import Ledger
from orchestrator.planning.config import SweepConfig
from orchestrator.planning.plan import make_plan
from tests.orchestrator.sweep_files import tiny_sweep


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "w.pth"
    state = timm.create_model("test_resnet").state_dict()
    torch.save({"model": state, "model_ema": state}, path)
    return path


def sweep_with(pretrained: Any) -> SweepConfig:
    """A sweep whose student starts from a file."""
    document = tiny_sweep().model_dump(mode="json")
    document["pairs"] = document["pairs"][:1]
    document["pairs"][0]["name"] = "pair"
    document["pairs"][0]["student"] |= {
        "model": "deeplabv3-test_resnet", "backbone_args": {}, "output_stride": None, "pretrained": pretrained,
    }  # fmt: skip
    return SweepConfig.model_validate(document)


def test_the_origin_of_weights_is_a_column_of_provenance(weights: Path, tmp_path: Path) -> None:
    config = sweep_with({"path": str(weights), "key": "model_ema"})
    check_pretrained(config, on_other_nodes=False)
    row = provenance_row(make_plan(config), [], {}, pretrained_weights(config))
    ledger = Ledger(tmp_path)
    ledger.append("provenance", [row], row["provenance_id"])
    (stored,) = ledger.read("provenance").to_pylist()
    (found,) = json.loads(stored["pretrained_weights"]).items()
    assert found[0] == "pair.student"
    assert found[1]["sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert (found[1]["key"], found[1]["names"], found[1]["unused"]) == ("model_ema", "timm", 2)
    wanted = timm.create_model("test_resnet", features_only=True).state_dict()
    assert found[1]["loaded"] == sum(not name.endswith("num_batches_tracked") for name in wanted)
    assert [name for name in stored if name.startswith("param_")] == []


def test_a_file_that_does_not_fit_is_refused_with_the_models_place(weights: Path) -> None:
    with pytest.raises(UsageError, match=r"^pair\.student: pretrained weights .* several sets of weights"):
        check_pretrained(sweep_with(str(weights)), on_other_nodes=False)


def test_a_file_that_other_nodes_have_is_left_to_them(tmp_path: Path) -> None:
    config = sweep_with(str(tmp_path / "w.pth"))
    with pytest.raises(UsageError, match=r"w\.pth' is not a file"):
        check_pretrained(config, on_other_nodes=False)
    check_pretrained(config, on_other_nodes=True)
    assert pretrained_weights(config) == {"pair.student": {"file": str(tmp_path / "w.pth")}}
