"""python -m orchestrator.show RUN [TRIAL] [--optuna FILE]: the state of a run, or everything about one trial."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

from distill.command_line import DONE, run_command


@dataclass(frozen=True)
class ShowOptions:
    """Show the state of a run, or one of its trials: configuration, curve, loss terms, error, command."""

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder of a run: a path, or a URI such as s3://bucket/run."""
    trial: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="[TRIAL]")] = None
    """A trial's id, or enough of its beginning to be the only one."""
    optuna: str | None = None
    """Write the search as an Optuna study file instead, for `optuna-dashboard FILE`."""


def main() -> None:
    """The command; exit code 2 for a run or trial that cannot be read."""
    run_command("python -m orchestrator.show", ShowOptions, show)


def show(options: ShowOptions) -> int:
    """Print a run or a trial, or write an Optuna study file."""
    # Imported here: pyarrow would make --help slow.
    from rich.console import Console

    from orchestrator.console.run_view import run_view, trial_view
    from orchestrator.ledger.optuna_export import write_optuna_file
    from orchestrator.ledger.tables import open_run

    ledger = open_run(options.run)
    if options.optuna is not None:
        studies, trials = write_optuna_file(ledger, options.optuna)
        print(
            f"{options.optuna}: {studies} studies, {trials} trials; open it: optuna-dashboard {options.optuna}"
        )
        return DONE
    Console().print(run_view(ledger) if options.trial is None else trial_view(ledger, options.trial))
    return DONE


if __name__ == "__main__":
    main()
