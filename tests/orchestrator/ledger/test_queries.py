from __future__ import annotations

import subprocess
import sys

from orchestrator.ledger.queries import latest_attempts, parameters_of
from tests import ROOT


def test_the_highest_attempt_of_each_trial_counts_and_of_equal_ones_the_first() -> None:
    rows = [
        {"trial_id": "b", "attempt": 10, "status": "ok"},
        {"trial_id": "a", "attempt": 1, "status": "failed"},
        {"trial_id": "b", "attempt": 9, "status": "failed"},
        {"trial_id": "a", "attempt": 1, "status": "pruned"},
    ]
    assert latest_attempts(rows) == [rows[1], rows[0]]
    assert latest_attempts([]) == []


def test_parameters_are_read_back_as_python_values() -> None:
    assert parameters_of([("lr", "0.1"), ("taps", "[1, 2]"), ("tap", '"stage4"')]) == {
        "lr": 0.1,
        "taps": [1, 2],
        "tap": "stage4",
    }
    assert parameters_of(None) == {}


def test_the_ledger_imports_no_torch_and_no_ray() -> None:
    modules = sorted(path.stem for path in (ROOT / "orchestrator" / "ledger").glob("*.py"))
    assert "weights" in modules
    imports = "; ".join(f"import orchestrator.ledger.{name}" for name in modules if name != "__init__")
    code = f"import sys; {imports}; sys.exit(', '.join({{'torch', 'ray'}} & set(sys.modules)) or 0)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
