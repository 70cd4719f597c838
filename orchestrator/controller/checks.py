"""Everything that can be found wrong before Ray is started and a file is written."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from distill.data.check import check_dataset
from distill.errors import UsageError
from orchestrator.cluster.node_probe import unwritable
from orchestrator.cluster.session import LOCAL
from orchestrator.controller.model_checks import check_models, shared_memory_notes
from orchestrator.controller.pretrained import check_pretrained
from orchestrator.controller.teachers import check_teachers
from orchestrator.controller.trackers import check_trackers
from orchestrator.ledger.folder_lock import refuse_if_held
from orchestrator.ledger.run_folder import check_run_folder
from orchestrator.ledger.tables import Ledger
from orchestrator.planning.plan import Plan


def check_before_start(plan: Plan, ledger: Ledger, *, fresh: bool, address: str) -> None:
    """Check data, models, run folder, cache folders, trackers, pretrained weights and teachers.

    Raises:
        UsageError: names what is wrong and the remedy.
    """
    for config in plan.config.data.values():
        copies, protocol = plan.config.operation.remote_copies, plan.config.protocol
        check_dataset(config, skip_broken=True, copies=copies, protocol=protocol)
    check_models(plan.config)
    refuse_if_held(ledger)
    if address == LOCAL:  # `Preflight` checks the same on other nodes
        _check_folders(plan.config.operation.cache_folders)
        for note in shared_memory_notes(plan.config):
            print(f"WARNING: {note}", file=sys.stderr)
    growth = check_run_folder(ledger, plan, fresh=fresh)
    check_trackers(plan.config.operation.trackers, ledger)
    check_pretrained(plan.config, on_other_nodes=address != LOCAL)
    check_teachers(plan, ledger, fresh=fresh)
    if growth is not None:
        print(f"{ledger.place()} grows: {growth.sentence()}", file=sys.stderr)


def _check_folders(folders: Mapping[str, str]) -> None:
    for name, folder in folders.items():
        fault = unwritable(folder)
        if fault is not None:
            raise UsageError(f"{name}.folder is {folder} and {fault}; choose another folder")
