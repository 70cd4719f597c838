"""Which selection protocol chooses well for its cost: a table of trainings, and protocols replayed on it.

    python benchmarks/selection.py train runs/selection --seeds 11 12 13 14 15 16 17 18

trains the table: the sweep `studies/selection.yaml` once for each training seed, one run folder each. The configurations
are the same for all seeds. The same command resumes.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

SWEEP = Path(__file__).parent / "studies" / "selection.yaml"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    train = commands.add_parser("train")
    train.add_argument("folder", type=Path)
    train.add_argument("--seeds", type=int, nargs="+", default=list(range(11, 19)))
    options = parser.parse_args()
    return train_table(options.folder, options.seeds)


def train_table(folder: Path, seeds: list[int]) -> int:
    """Run the sweep once for each training seed; returns the first exit code that is not 0."""
    for seed in seeds:
        command = [sys.executable, "-m", "orchestrator.sweep", str(SWEEP), "--output", str(folder / f"seed-{seed}"),
                   "--set", f"search.training_seeds=[{seed}]",
                   "--set", f"operation.teachers={folder / 'teachers'}"]  # fmt: skip
        code = subprocess.run(command, check=False).returncode
        if code != 0:
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
