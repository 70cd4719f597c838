"""python -m orchestrator.leaderboard RUN [RUN ...] [--output DIR]."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Annotated

import tyro


@dataclass(frozen=True)
class LeaderboardOptions:
    """Make the leaderboard of one or more runs, finished or not, from their tables.

    Writes leaderboard.html and LEADERBOARD.md, the same rows as leaderboard.csv, .json and .parquet, a model card of
    each pair's best student under cards/, and students.json, from which distill.export takes one.
    """

    runs: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN [RUN ...]")]
    """Folders of runs: paths, or URIs such as s3://bucket/run."""
    output: str | None = None
    """Folder to write into; leaderboard/ inside the run by default, needed for several runs."""


def main() -> None:
    """The command; exit code 0, or 2 for a run that cannot be read."""
    options = tyro.cli(LeaderboardOptions, prog="python -m orchestrator.leaderboard")
    # Imported here: pyarrow and scipy would make --help slow.
    from distill.errors import UsageError
    from orchestrator.leaderboard.files import write_leaderboard
    from orchestrator.ledger.tables import Ledger

    try:
        written = write_leaderboard([Ledger(run) for run in options.runs], options.output)
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    print(written.path)


if __name__ == "__main__":
    main()
