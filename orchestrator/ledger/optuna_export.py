"""Exports the search of a run as an Optuna journal file, for Optuna's own tools and dashboard."""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.errors import UsageError
from orchestrator.ledger.queries import latest_attempts, parameters_of
from orchestrator.ledger.tables import Ledger
from orchestrator.planning.method_settings import method_space
from orchestrator.planning.renamed import read_recorded_config
from search_spaces import Domain

if TYPE_CHECKING:
    import optuna

Row = Mapping[str, Any]

_FACTS = ("dataset", "protocol", "pair", "teacher", "student", "method", "recipe_hash")


def write_optuna_file(ledger: Ledger, path: str | os.PathLike[str]) -> tuple[int, int]:
    """Write the search trials of every study to a journal file; returns the numbers of studies and trials.

    A trial's value is its tune mIoU (0 to 1, to maximise), its intermediate values are its reports. Pruned and failed
    trials keep their state. The trial of the published defaults has its values too, where they are in the search space.
    The user attribute `settings` has every value of method and recipe that a trial used.

    Raises:
        UsageError: Optuna is not installed, the file exists (Optuna would append to it), or there is no search trial.
    """
    try:
        import optuna
        from optuna.storages.journal import JournalFileBackend
    except ImportError:
        raise UsageError("an Optuna study file needs Optuna: pip install 'heteroakd[optuna]'") from None
    target = Path(path)
    if target.exists():
        raise UsageError(f"{target} exists, and a study file only grows: remove it or name another")
    trials = [row for row in latest_attempts(ledger.read("trials").to_pylist()) if row["phase"] == "search"]
    if not trials:
        raise UsageError(f"{ledger.place()} has no search trial yet, so there is no study to write")
    spaces = _spaces(ledger.read("provenance").to_pylist())
    reports = _reports(ledger)
    studies: dict[str, list[Row]] = {}
    for row in trials:
        studies.setdefault(row["study_id"] or f"{row['pair']}.{row['method']}", []).append(row)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    target.parent.mkdir(parents=True, exist_ok=True)
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(target)))
    for name, rows in sorted(studies.items()):
        study = optuna.create_study(study_name=name, storage=storage, direction="maximize")
        for fact in _FACTS:
            study.set_user_attr(fact, rows[0][fact])
        domains = spaces.get((rows[0]["provenance_id"], rows[0]["method"]), {})
        points = {row["trial_id"]: _point(row, domains) for row in rows}
        distributions = _distributions(points.values(), domains)
        rows.sort(key=lambda row: (str(row["started_at"]), row["trial_id"]))
        study.add_trials(
            [
                _trial(row, points[row["trial_id"]], distributions, reports.get(row["trial_id"], {}))
                for row in rows
            ]
        )
    return len(studies), len(trials)


def _spaces(provenance: Iterable[Row]) -> dict[tuple[str, str], Mapping[str, Domain]]:
    """The search domains by (provenance id, method), from the configs that this version can read."""
    found: dict[tuple[str, str], Mapping[str, Domain]] = {}
    for row in provenance:
        try:
            config = read_recorded_config(row["config_yaml"] or "")
            for method in config.methods:
                found[row["provenance_id"], method.title] = method_space(method).parameters
        except UsageError:
            continue  # the distributions are then made from the values in the rows
    return found


def _reports(ledger: Ledger) -> dict[str, dict[int, float]]:
    """Tune mIoU by trial id and step."""
    table = ledger.read("curves", ["trial_id", "step", "tune_miou"]).drop_null()
    found: dict[str, dict[int, float]] = {}
    for trial_id, step, value in zip(*(column.to_pylist() for column in table.columns), strict=True):
        found.setdefault(trial_id, {})[step] = value
    return found


def _point(row: Row, domains: Mapping[str, Domain]) -> dict[str, Any]:
    """The searched parameters of a trial, in the units of the search space; a default outside of it is left out."""
    used = parameters_of(row["params"])
    if row["searched"] is None:
        return used
    point = {}
    for name, drawn in parameters_of(row["searched"]).items():
        domain = domains.get(name)
        if drawn is None:
            is_factor = domain is not None and domain.scale_log_uniform is not None
            drawn = 1.0 if is_factor else used.get(name)
            if drawn is None or (domain is not None and not domain.holds(drawn)):
                continue
        point[name] = drawn
    return point


def _distributions(
    points: Iterable[Mapping[str, Any]], domains: Mapping[str, Domain]
) -> dict[str, optuna.distributions.BaseDistribution]:
    """Each parameter's distribution from the search space; without one, a categorical one of the values in `points`."""
    from optuna.distributions import CategoricalDistribution

    seen: dict[str, list[Any]] = {}
    for point in points:
        for name, value in point.items():
            if value not in seen.setdefault(name, []):
                seen[name].append(value)
    return {
        name: _distribution(domains[name])
        if name in domains
        else CategoricalDistribution(tuple(sorted(values, key=repr)))
        for name, values in sorted(seen.items())
    }


def _distribution(domain: Domain) -> optuna.distributions.BaseDistribution:
    from optuna import distributions

    if domain.choice is not None:
        return distributions.CategoricalDistribution(domain.choice)
    if domain.int_uniform is not None:
        return distributions.IntDistribution(*domain.int_uniform)
    bounds: Any = domain.bounds()
    return distributions.FloatDistribution(bounds[0], bounds[1], log=domain.logarithmic)


def _trial(
    row: Row,
    params: dict[str, Any],
    distributions: Mapping[str, optuna.distributions.BaseDistribution],
    reports: Mapping[int, float],
) -> optuna.trial.FrozenTrial:
    from optuna.trial import FrozenTrial, TrialState

    states = {"ok": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}
    scored = row["tune_miou"] is not None
    state = states[row["status"]] if scored or row["status"] != "ok" else TrialState.FAIL
    attributes = {name: row[name] for name in ("trial_id", "seed", "gpu_seconds", "steps_done", "error")}
    attributes["settings"] = parameters_of(row["params"])
    return FrozenTrial(
        number=0,  # the storage numbers trials in the order of addition
        trial_id=0,
        state=state,
        value=row["tune_miou"] if state == TrialState.COMPLETE else None,
        datetime_start=_naive(row["started_at"] or row["finished_at"]),
        datetime_complete=_naive(row["finished_at"]),
        params=params,
        distributions={name: distributions[name] for name in params},
        user_attrs={name: value for name, value in attributes.items() if value is not None},
        system_attrs={},
        intermediate_values=dict(reports),
    )


def _naive(moment: Any) -> Any:
    """A UTC time without time zone, as Optuna stores it; 1970 if unknown, because Optuna needs both times."""
    known = moment or datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
    return known.replace(tzinfo=None)
