"""Repair of a damaged run before it is resumed: moves damaged files away and finds incomplete trials.

A trial counts as recorded only if its row, its curve and, for teachers and final runs, its counts are all there. One that
lacks a part is trained again. Checking costs a listing of each table and the footers of its files.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from distill.errors import UsageError
from orchestrator.ledger.queries import latest_attempts
from orchestrator.ledger.recorded import PLAN_FILE
from orchestrator.ledger.run_folder import DAMAGED, earlier_plan, fault_of_plan_file, write_plan
from orchestrator.ledger.schema import TABLES
from orchestrator.ledger.tables import Ledger
from orchestrator.ledger.weights import is_whole, teacher_path, teacher_weights
from orchestrator.planning.plan import KEPT_PHASES, Plan


def repair_run(ledger: Ledger, plan: Plan) -> list[str]:
    """Set damaged files aside, and write a lost plan again; returns a sentence for each.

    Raises:
        UsageError: the storage cannot be used.
    """
    notes = set_aside_damaged(ledger, ["provenance"], read=False)
    notes += _repaired_plan(ledger, plan)
    notes += set_aside_damaged(ledger, TABLES, read=False)
    try:
        for table in ("trials", "curves", "models", "provenance"):
            ledger.read(table)
    except UsageError:  # the footers are sound, the data of some file is not
        notes += set_aside_damaged(ledger, TABLES, read=True)
    for teacher in plan.teachers:
        path = teacher_weights(teacher)
        if ledger.exists(path) and not is_whole(ledger, path):
            notes.append(_set_aside(ledger, path, "it is cut short"))
    return notes + list(_delete_unrecorded_teachers(ledger, plan))


def set_aside_damaged(ledger: Ledger, tables: Iterable[str] = TABLES, *, read: bool) -> list[str]:
    """Move damaged files of all tables into `damaged/`; returns a sentence for each.

    Args:
        ledger: the run.
        tables: names of the tables.
        read: read every file, and not its footer alone.
    """
    return [
        _set_aside(ledger, f"tables/{table}/{file}", why)
        for table in tables
        for file, why in ledger.damaged_files(table, read=read).items()
    ]


def incomplete_trials(ledger: Ledger) -> dict[str, str]:
    """Recorded trials of which a part is missing, by id, with the name of that part."""
    columns = ["trial_id", "attempt", "study_id", "phase", "status", "steps_done", "student"]
    trials = latest_attempts(ledger.read("trials", columns).to_pylist())
    curves = ledger.read("curves", ["trial_id", "step"]).to_pylist()
    reached = {(row["trial_id"], row["step"]) for row in curves}
    counted = ledger.written_names("counts")
    has_sizes = len(ledger.read("models", ["name"])) > 0
    sized: set[str] = set()
    found: dict[str, str] = {}
    for row in trials:
        trial_id = row["trial_id"]
        kept = row["status"] == "ok" and row["phase"] in KEPT_PHASES
        if row["status"] in ("ok", "pruned") and (trial_id, row["steps_done"]) not in reached:
            found[trial_id] = "its curve"
        elif kept and not {f"{trial_id}-tune", f"{trial_id}-test"} <= counted:
            found[trial_id] = "its counts"
        elif row["phase"] == "teacher" and kept and not ledger.exists(teacher_path(row["study_id"])):
            found[trial_id] = "its weights"
        elif kept and not has_sizes and row["student"] not in sized:
            found[trial_id] = "the size of its model"
            sized.add(row["student"])  # one training measures it for all
    return found


def _delete_unrecorded_teachers(ledger: Ledger, plan: Plan) -> Iterator[str]:
    """Delete the weights of teachers whose training was interrupted before its row was written.

    They would be taken for teachers that were put into the folder: those are scored, and not trained. Such a file was
    there when a command of this plan began, so its provenance row has the hash.
    """
    provenance = ledger.read("provenance", ["teacher_sha256", "plan_hash"]).to_pylist()
    known = {teacher_id for row in provenance for teacher_id, _ in row["teacher_sha256"] or ()}
    begun = {row["plan_hash"] for row in provenance}
    before = earlier_plan(ledger, plan)  # a teacher that this plan adds may have been put there for it
    trained_here = before.teachers if before is not None and before.plan_hash in begun else ()
    rows = ledger.read("trials", ["study_id", "phase", "status"]).to_pylist()
    known |= {row["study_id"] for row in rows if row["phase"] == "teacher" and row["status"] == "ok"}
    for teacher in trained_here:
        path = teacher_weights(teacher)
        if teacher.recipe is not None and teacher.teacher_id not in known and ledger.exists(path):
            ledger.delete(path)
            yield f"{ledger.place(path)}: the command was interrupted before its trial was recorded; it is trained again"


def _set_aside(ledger: Ledger, path: str, why: str) -> str:
    """Move a file of the run into the folder `damaged/`."""
    target = f"{DAMAGED}/{path.removeprefix('tables/')}"
    ledger.write_bytes(target, ledger.read_bytes(path))
    ledger.delete(path)
    return f"{ledger.place(path)}: {why}; moved to {target}, and what it held is trained again"


def _repaired_plan(ledger: Ledger, plan: Plan) -> Iterator[str]:
    """Write `plan.json` again if it is lost or damaged and the run has had this plan."""
    why = fault_of_plan_file(ledger)
    if why is None or not ledger.exists("tables/provenance"):
        return
    hashes = set(ledger.read("provenance", ["plan_hash"]).column("plan_hash").to_pylist())
    # Other hashes are of this plan with its data in other folders, or of shorter plans.
    if plan.plan_hash not in hashes:
        raise UsageError(
            f"{ledger.place(PLAN_FILE)} {why}, and the tables are of another plan than this sweep file; resume with the "
            "sweep file of this run, or choose another --output"
        )
    write_plan(ledger, plan)
    yield f"{ledger.place(PLAN_FILE)} {why}; written again, as the run has had this plan"
