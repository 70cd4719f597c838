"""Everything that can be found wrong before Ray is started and a file is written, for a sweep and for `--dry-run`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial

from distill.data.check import check_dataset
from distill.errors import UsageError
from distill.uris import is_uri
from orchestrator.cluster.node_probe import unwritable
from orchestrator.cluster.session import LOCAL, is_job
from orchestrator.controller.loaded_teachers import check_teachers
from orchestrator.controller.model_checks import check_models, shared_memory_notes
from orchestrator.controller.pretrained import check_pretrained
from orchestrator.controller.trackers import check_trackers
from orchestrator.ledger.folder_lock import refuse_if_held
from orchestrator.ledger.run_folder import check_run_folder
from orchestrator.ledger.tables import Ledger
from orchestrator.planning.equal_seconds import unmeasured
from orchestrator.planning.method_settings import untuned, untuned_sentences
from orchestrator.planning.plan import Plan
from orchestrator.planning.sampler_check import check_first_brackets

Check = Callable[[], object]
"""Raises a `UsageError` if something is wrong."""

_MOST_NOTES = 6


class Checks:
    """The checks of a sweep's start that write nothing, and what they noted about the data.

    Attributes:
        notes: methods that are not tuned equally; how the run grows, and remarks on the data sets, filled by `run`.
    """

    def __init__(self, plan: Plan, ledger: Ledger, *, fresh: bool, address: str) -> None:
        self.notes: list[str] = []
        self._plan, self._ledger, self._fresh, self._address = plan, ledger, fresh, address
        search = plan.config.search
        if 0 < search.finishing_trials < search.finalists:
            self.notes.append(
                f"WARNING: search.finalists is {search.finalists}, but of a study's {search.trials} trials only "
                f"{search.finishing_trials} reach{'es' * (search.finishing_trials == 1)} the last step, by the rungs; raise "
                "search.trials, or use fewer rungs"
            )
        if plan.config.search.trials:
            self.notes += [
                f"WARNING: {sentence}; a method's `space` replaces the whole search space: write these parameters in it as "
                "for the student alone (by default as in search_spaces/recipe.yaml)"
                for sentence in untuned_sentences(untuned(plan.config.methods))
            ]

    def run(self, *, download: bool, more: Iterable[Check] = ()) -> None:
        """Run all checks, and `more` after them.

        Args:
            download: whether to download checkpoints from the Hugging Face hub to check them.
            more: further checks.

        Raises:
            UsageError: names everything that is wrong, each with its remedy.
        """
        problems = []
        for check in (*self._checks(download), *more):
            try:
                check()
            except UsageError as error:
                problems.append(str(error))
        if problems:
            raise UsageError("\n".join(dict.fromkeys(problems)))

    def _checks(self, download: bool) -> Iterator[Check]:
        plan, ledger, config = self._plan, self._ledger, self._plan.config
        if is_job(self._address):  # files, data and devices are those of the cluster
            if is_uri(ledger.root):
                yield self._check_run_folder
            return
        yield partial(refuse_if_held, ledger)
        yield self._check_run_folder
        yield partial(check_first_brackets, plan)
        yield partial(check_models, config)
        yield partial(check_pretrained, config, on_other_nodes=self._address != LOCAL)
        for name in config.data:
            yield partial(self._check_data, name)
        yield partial(check_teachers, plan, ledger, fresh=self._fresh, download=download)
        if self._address == LOCAL:
            self.notes += [f"WARNING: {note}" for note in shared_memory_notes(config)]

    def _check_run_folder(self) -> None:
        growth = check_run_folder(self._ledger, self._plan, fresh=self._fresh)
        if growth is not None:
            self.notes.append(f"{self._ledger.place()} grows: {growth.sentence()}")
        if growth is not None and (missing := unmeasured(self._plan.config)):
            several = "method has" if len(missing) == 1 else "methods have"
            self.notes.append(
                f"{len(missing)} {several} studies at equal seconds too, once the cost of a step is measured"
            )

    def _check_data(self, name: str) -> None:
        config = self._plan.config
        copies, protocol = config.operation.remote_copies, config.protocol
        report = check_dataset(config.data[name], skip_broken=True, copies=copies, protocol=protocol)
        self.notes += [f"data set '{name}': {note}" for note in report.notes[:_MOST_NOTES]]
        if report.notes[_MOST_NOTES:]:
            more = len(report.notes) - _MOST_NOTES
            self.notes.append(f"data set '{name}': {more} more notes: python -m distill.data check FILE.yaml")


def check_before_start(plan: Plan, ledger: Ledger, *, fresh: bool, address: str) -> list[str]:
    """Check run folder, models, data, pretrained weights, teachers, cache folders and trackers; returns remarks.

    Raises:
        UsageError: names everything that is wrong, each with its remedy.
    """
    checks, operation = Checks(plan, ledger, fresh=fresh, address=address), plan.config.operation
    checks.run(download=True)
    if address == LOCAL:  # `Preflight` checks the same on other nodes
        _check_folders(operation.cache_folders)
    check_trackers(operation.trackers, ledger)
    return checks.notes


def _check_folders(folders: Mapping[str, str]) -> None:
    for name, folder in folders.items():
        fault = unwritable(folder)
        if fault is not None:
            raise UsageError(f"{name}.folder is {folder} and {fault}; choose another folder")
