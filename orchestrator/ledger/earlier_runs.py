"""What did best for each method in earlier runs: `search.from`, which becomes `search.first`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping
from typing import Any

from distill.errors import UsageError
from orchestrator.ledger.queries import latest_attempts, parameters_of
from orchestrator.ledger.tables import Ledger, open_run
from orchestrator.planning.config import MethodSelection, SweepConfig
from orchestrator.planning.method_settings import method_space
from orchestrator.planning.portfolio import portfolio, ranks
from orchestrator.planning.renamed import read_recorded_config
from orchestrator.planning.sampler import Params
from search_spaces import Domain, Space

Row = Mapping[str, Any]
_COLUMNS = ["trial_id", "attempt", "phase", "status", "pair", "method", "repeat", "params", "searched", "steps_done",
            "tune_miou", "provenance_id"]  # fmt: skip


def with_first_configurations(
    config: SweepConfig, run: Ledger, *, fresh: bool
) -> tuple[SweepConfig, list[str]]:
    """The config with `search.first` from the runs of `search.from`, and remarks on what they lack.

    The methods that `search.first` has keep it. A command that resumes takes what its run has recorded, so an earlier run
    that has grown or is gone since changes nothing.

    Args:
        config: the sweep.
        run: the run of this sweep.
        fresh: whether to pass over what it has recorded.

    Raises:
        UsageError: an earlier run cannot be read, or has no search trial of any of the methods.
    """
    search = config.search
    if not search.earlier_runs or not search.trials:
        return config, []
    known = {**({} if fresh else _recorded(run, config)), **search.first}
    wanted = {method.title: method for method in config.methods if method.title not in known}
    if not wanted:
        return _with(config, known), []
    studies: dict[str, dict[Hashable, Mapping[str, float]]] = {title: {} for title in wanted}
    notes: list[str] = []
    for root in search.earlier_runs:
        found = _EarlierRun(root, wanted)
        for title, task, best_first in found.studies():
            studies[title][root, *task] = ranks(best_first)
        notes += [f"search.from: {note}" for note in found.notes()]
    count = first_count(search.bracket, search.trials)
    points = {title: tuple(map(dict, portfolio(found, count))) for title, found in studies.items()}
    notes += [
        f"search.from: no configuration for method {title}, whose search begins with its defaults"
        for title, chosen in points.items()
        if not chosen
    ]
    return _with(config, {**points, **known}), notes


def first_count(bracket: int, trials: int) -> int:
    """Number of configurations of earlier runs that a study tries: half of the first bracket, so that the other half is new."""
    return min(bracket, trials) // 2


def _with(config: SweepConfig, first: Mapping[str, Any]) -> SweepConfig:
    titles = [method.title for method in config.methods]
    ordered = {title: first[title] for title in titles if first.get(title)}
    search = config.search.model_copy(update={"first": ordered})
    return config.model_copy(update={"search": search})


def _recorded(run: Ledger, config: SweepConfig) -> Mapping[str, Any]:
    """`search.first` of the newest command of this run that has the same `search.from`."""
    rows = run.read("provenance", ["config_yaml", "created_at"]).to_pylist()
    for row in sorted(rows, key=lambda row: str(row["created_at"]), reverse=True):
        try:
            search = read_recorded_config(row["config_yaml"] or "").search
        except UsageError:
            continue
        if search.earlier_runs == config.search.earlier_runs:
            return search.first
    return {}


class _EarlierRun:
    """The search trials of an earlier run, as points of the search spaces of this sweep."""

    def __init__(self, root: str, wanted: Mapping[str, MethodSelection]) -> None:
        try:
            ledger = open_run(root)
            self._rows = latest_attempts(ledger.read("trials", _COLUMNS).to_pylist())
            provenance = ledger.read("provenance", ["provenance_id", "config_yaml"]).to_pylist()
        except UsageError as error:
            raise UsageError(f"search.from has {root}, which is no run that can be used: {error}") from error
        self._root, self._wanted = root, wanted
        self._methods = dict(_methods_of(provenance))
        self._left_out: Counter[tuple[str, str]] = Counter()
        searched = {row["method"] for row in self._rows if row["phase"] == "search"}
        if not searched & set(wanted):
            raise UsageError(
                f"search.from has {root}, which has search trials of {', '.join(sorted(searched)) or 'no method'}; name a run "
                f"with a search of {', '.join(wanted)}"
            )
        for row in self._rows:
            then, now = self._methods.get((row["provenance_id"], row["method"])), wanted.get(row["method"])
            if then is not None and now is not None and then.name != now.name:
                raise UsageError(
                    f"search.from has {root}, where '{row['method']}' is the method {then.name} and not {now.name}; give one of "
                    "them another label"
                )

    def studies(self) -> Iterable[tuple[str, tuple[Hashable, ...], list[Params]]]:
        """Method, pair and repeat of each study, with its configurations, best first."""
        groups: dict[tuple[str, str, int], list[Row]] = {}
        for row in self._rows:
            if row["phase"] == "search" and row["method"] in self._wanted and row["tune_miou"] is not None:
                groups.setdefault((row["method"], row["pair"], row["repeat"] or 0), []).append(row)
        for (title, *task), rows in sorted(groups.items()):
            rows.sort(
                key=lambda row: (
                    row["status"] != "ok",
                    -row["steps_done"],
                    -row["tune_miou"],
                    row["trial_id"],
                )
            )
            points = [self._point(row, method_space(self._wanted[title])) for row in rows]
            yield title, tuple(task), [point for point in points if point]

    def notes(self) -> list[str]:
        """What is left out, and why."""
        return [
            f"{number} configurations of {title} in {self._root} are left out: {reason}"
            for (title, reason), number in self._left_out.items()
        ]

    def _point(self, row: Row, space: Space) -> Params | None:
        """The configuration of a trial in this sweep's search space; None for the defaults, and for one outside of it."""
        drawn, used = parameters_of(row["searched"]), parameters_of(row["params"])
        if all(value is None for value in drawn.values()):
            return None
        then = self._methods.get((row["provenance_id"], row["method"]))
        domains = method_space(then).parameters if then is not None else {}
        point = {}
        for name, domain in space.parameters.items():
            value = _value(name, domain, domains.get(name), drawn, used)
            if value is None or not domain.holds(value):
                outside = (
                    f"{name} is {value}, outside of the search space"
                    if value is not None
                    else f"{name} is not known"
                )
                self._left_out[row["method"], outside] += 1
                return None
            point[name] = value
        return point


def _value(
    name: str, now: Domain, then: Domain | None, drawn: Mapping[str, Any], used: Mapping[str, Any]
) -> Any:
    """A parameter of an earlier trial in the units of this search space; None if it is not known in them.

    Args:
        name: of the parameter.
        now: its domain in this sweep.
        then: its domain in the earlier run; None if it was not searched.
        drawn: the searched parameters of the trial.
        used: every setting of the trial.
    """
    if now.scale_log_uniform is None:
        return used.get(name)
    if name not in drawn:
        return 1.0  # the recipe's value
    is_factor = then is not None and then.scale_log_uniform is not None
    return drawn[name] if is_factor else None


def _methods_of(provenance: Iterable[Row]) -> Iterable[tuple[tuple[str, str], MethodSelection]]:
    for row in provenance:
        try:
            config = read_recorded_config(row["config_yaml"] or "")
        except UsageError:
            continue  # of another version; its parameters are then taken from the rows
        for method in config.methods:
            yield (row["provenance_id"], method.title), method
