"""Every script starts as the pages tell: `python benchmarks/NAME.py`, with nothing but its own folder on Python's path."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"
IMPORT_ALL = """
import importlib, sys, traceback
sys.path[0] = sys.argv[1]
for name in sys.argv[2:]:
    try:
        importlib.import_module(name)
    except Exception:
        traceback.print_exc()
        sys.exit(f"{name} cannot be imported")
"""


@pytest.mark.parametrize("folder", [FOLDER, FOLDER / "gpu"], ids=lambda folder: folder.name)
def test_scripts_can_be_imported(folder: Path, tmp_path: Path) -> None:
    names = sorted(path.stem for path in folder.glob("*.py"))
    result = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL, str(folder), *names], cwd=tmp_path, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
