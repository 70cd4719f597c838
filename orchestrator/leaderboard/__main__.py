"""python -m orchestrator.leaderboard RUN [RUN ...] [--output DIR]."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

from distill.command_line import DONE, run_command


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
    """The command; exit code 2 for a run that cannot be read."""
    run_command("python -m orchestrator.leaderboard", LeaderboardOptions, make_leaderboard)


def make_leaderboard(options: LeaderboardOptions) -> int:
    """Write the leaderboard and print where it is."""
    # Imported here: pyarrow and scipy would make --help slow.
    from orchestrator.leaderboard.files import write_leaderboard
    from orchestrator.ledger.tables import Ledger

    print(write_leaderboard([Ledger(run) for run in options.runs], options.output).path)
    return DONE


if __name__ == "__main__":
    main()
