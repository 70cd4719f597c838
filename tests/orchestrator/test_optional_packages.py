"""Without the extras: what needs an optional package names it, and the extra that has it, before any work starts."""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from distill.errors import UsageError
from distill.export.graph import refuse_without_onnx
from distill.models.teachers.hub import build_network
from distill.segmenter import load_segmenter
from orchestrator.cluster.job_submission import _client
from orchestrator.controller.trackers import check_trackers
from orchestrator.ledger.optuna_export import write_optuna_file
from orchestrator.ledger.tables import Ledger
from orchestrator.planning.config import OperationConfig
from orchestrator.planning.sampler import sample_bracket
from orchestrator.planning.search_config import SearchConfig
from orchestrator.planning.tune_searchers import SEARCHERS
from search_spaces import load_space

ROOT = Path(__file__).parents[2]


def track(kind: str) -> None:
    operation = OperationConfig.model_validate({"trackers": [{"kind": kind}]})
    check_trackers(operation.trackers, Ledger("unused"))


def draw(sampler: str) -> None:
    sample_bracket(SearchConfig(sampler=sampler), load_space("kd"), seed=0, index=0, size=8, history=())


NEEDS: list[tuple[str, str, Callable[[], object]]] = [
    ("onnxruntime", "onnx", lambda: load_segmenter("model.onnx")),
    *((module, "onnx", refuse_without_onnx) for module in ("onnx", "onnxscript", "onnxruntime")),
    ("transformers", "hub", lambda: build_network({"model_type": "upernet"})),
    ("optuna", "optuna", lambda: write_optuna_file(Ledger("unused"), "study.log")),
    ("mlflow", "mlflow", lambda: track("mlflow")),
    ("wandb", "wandb", lambda: track("wandb")),
    ("aiohttp", "cluster", lambda: _client("job")),
    *(
        (module, name, lambda name=name: draw(name))
        for name, searcher in SEARCHERS.items()
        for module in searcher.modules
    ),
]


@pytest.mark.parametrize(("module", "extra", "use"), NEEDS)
def test_what_needs_a_package_that_is_not_installed_names_it_and_its_extra(
    module: str, extra: str, use: Callable[[], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [module, *(name for name in sys.modules if name.startswith(f"{module}."))]:
        monkeypatch.setitem(sys.modules, name, None)  # as if it were not installed
    with pytest.raises(UsageError, match=rf"pip install 'heteroakd\[{extra}\]'") as raised:
        use()
    assert module.lower() in str(raised.value).lower() or extra == "cluster"


def test_every_extra_that_a_message_names_is_one_of_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = {
        extra
        for package in ("orchestrator", "distill", "search_spaces")
        for path in (ROOT / package).rglob("*.py")
        for extra in re.findall(r"heteroakd\[([a-z]+)\]", path.read_text())
    }
    assert {"onnx", "hub", "optuna"} <= named <= project["optional-dependencies"].keys()
