"""The sentences about a board, for all pages."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.leaderboard.comparison import BETTER, WORSE
from orchestrator.leaderboard.entries import FAILED, OFF_PROTOCOL, OTHER_BUDGET, UNCOMMITTED, Board
from orchestrator.leaderboard.planned import Selection
from orchestrator.leaderboard.run_records import RunRecords
from orchestrator.planning.equal_seconds import SECONDS

HOW_TO_READ = (
    "A rank such as 2–5 means that the data do not say where between 2 and 5 the method stands: it is 1 "
    "+ how many methods are surely better, to K − how many are surely worse.",
    "Surely better (▲) and surely worse (▼) mean both: the paired two-sided t test gives an adjusted p < 0.05, and "
    "the interval over test pictures is on the same side of zero.",
    "All comparisons of a board are adjusted together by Holm's method, half of the 5 % for those with the student "
    "alone and half for all others: at most 5 of 100 boards make any false claim. The p on one pair, and the claim on a "
    "model card, are adjusted in the same way over the comparisons on that pair, and multiplied by the number of pairs: at "
    "most 5 of 100 boards make any false claim on a pair.",
    "A gain is the mean difference to the student alone with the same pair and seed, so with the same "
    "data order and initialisation. Where methods are searched, the student is too, over its own recipe.",
    "Two kinds of noise, two intervals. Over seeds (paired t interval): how far other seeds would move the gain on "
    "these test pictures. Over test pictures (paired bootstrap, one draw for all methods): how far another test set of "
    "this kind would move the gain of these very weights. Neither contains the other.",
    "If the searches are repeated, the first interval is over searches: other searched points, other seeds.",
    "The share of the gap has Fieller's interval, as gain and gap both vary. It has none where the gap itself is not "
    "surely above zero.",
    "A percentile bootstrap of 3 seeds covers 75 % where 95 % is written: hence t intervals.",
    "With 5 pairs no Wilcoxon test can go below p = 0.06: hence no test over pairs.",
    "The best of 20 trials of an identical method beats one run 95 % of the time: compare only equal "
    "budgets.",
    "Ranks are per data set and recipe. Hiding rows changes no rank.",
)

_NAMES = 3
"""Maximum number of runs that a title names."""
_METHODS = 8
"""Maximum number of methods that a sentence on unfinished studies names."""

EQUAL_PROBABILITIES = (
    "Some p are equal: Holm's adjustment gives no comparison a smaller p than one that had a smaller p before the "
    "adjustment, and cuts at 1."
)


def runs_title(records: RunRecords) -> str:
    """The names of the runs, and the day on which their last trial ended; empty if there is no trial."""
    names = list(dict.fromkeys(trial.run_name for trial in records.trials if trial.run_name))
    more = [f"{len(names) - _NAMES} more"] if len(names) > _NAMES else []
    ended = [trial.finished_at for trial in records.trials if trial.finished_at is not None]
    day = [f"{max(ended):%Y-%m-%d}"] if ended else []
    return " · ".join([*([" + ".join([*sorted(names)[:_NAMES], *more])] if names else []), *day])


def board_title(board: Board, several: bool) -> str:
    """Data set and protocol; whether steps or seconds are equal, and the recipes, if a page has several boards."""
    recipes = ", ".join(f"{pair.short}: {pair.recipe}" for pair in board.pairs)
    basis = f" · equal {board.compare}" if several or board.compare == SECONDS else ""
    return f"{board.dataset} · {board.protocol}{basis}" + (f" · recipe {recipes}" if several else "")


def protocol_line(board: Board) -> str:
    """N methods · M pairs · S seeds · T trials per method and pair · hours of GPUs or workers · how it was scored."""
    low, high = board.trials
    trials = f"{low}" if low == high else f"{low}–{high}"
    searches = f" in {board.searches} searches" if board.searches > 1 else ""
    scored = (
        "tuned on tune, scored once on test"
        if board.protocol == "clean"
        else f"protocol {board.protocol}: trained on all of train, tuned and scored on test, not leakage-free"
    )
    return " · ".join(
        [
            _count(len(board.rows), "method"),
            _count(len(board.pairs), "pair"),
            _count(len(board.seeds), "seed"),
            f"{trials} trials per method and pair{searches}",
            f"{board.gpu_hours:.2f} {board.hours_unit}",
            scored,
        ]
    )


def verdict(board: Board) -> str:
    """Sentences on the methods that share the first rank, those surely better than the student alone, and budgets."""
    parts = [_leaders(board)]
    if board.ranked and board.comparison.tested:
        parts += _winners(board)
    low, high = board.trials
    parts += _no_claims_yet(board)
    if low != high:
        parts.append(f"The search budgets are unequal: {low} to {high} trials per method and pair.")
    return " ".join(parts)


def _leaders(board: Board) -> str:
    if not board.ranked:
        return "Not ranked: these runs are off the protocol."
    if not board.best:
        return "Nothing to rank yet: no method has a final run on every pair."
    if len(board.best) == 1 and sum(row.rank_low is not None for row in board.rows) == 1:
        return f"Only {board.best[0]} has a rank so far, so nothing is compared."
    if not board.comparison.tested and board.unfinished:
        return "Nothing is compared yet: no two methods have all of their final runs."
    if not board.comparison.tested:
        return f"No method can be told apart from another: that needs at least two {noise(board)} of each."
    if len(board.best) == 1:
        leader = board.best[0]
        if any(row.rank_high == 1 for row in board.rows):
            return f"{leader} is surely better than every other ranked method."
        return f"No method is surely better than {leader}; every other one is surely worse than some method."
    return f"{len(board.best)} methods cannot be told apart from the best: {', '.join(board.best)}."


def _winners(board: Board) -> list[str]:
    """A sentence on the methods that are surely better or worse than the student alone."""
    tested = [row for row in board.rows if row.p_differs_from_student is not None]
    if not tested:
        return []
    found = []
    for sure in (BETTER, WORSE):
        names = [row.method for row in tested if row.surely == sure]
        if len(names) == len(tested) > 1:
            found.append(f"every other method is surely {sure}")
        elif names:
            found.append(f"{', '.join(names)} {'is' if len(names) == 1 else 'are'} surely {sure}")
    return [
        f"Compared with the student alone, {'; '.join(found) or 'none is surely better or surely worse'}."
    ]


def _no_claims_yet(board: Board) -> list[str]:
    """A sentence on the methods that no claim is about, because their studies are not finished."""
    if not board.unfinished:
        return []
    methods = list(dict.fromkeys(study.method for study in board.unfinished))
    shown = ", ".join(
        [*methods[:_METHODS], *([f"{len(methods) - _METHODS} more"] if methods[_METHODS:] else [])]
    )
    studies, ended = len(board.unfinished), sum(study.ended for study in board.unfinished)
    planned = sum(study.planned for study in board.unfinished)
    return [
        f"No claim yet about {shown}: {_count(studies, 'study', 'studies')} with {ended} of {planned} final runs."
    ]


def noise(board: Board) -> str:
    """What the t intervals of the board are over: seeds, or searches if there are several of each study."""
    return "searches" if board.searches > 1 else "seeds"


def conditions(board: Board) -> str:
    """How the configurations were chosen, and what every claim of the board is conditional on."""
    chosen = " or ".join(_chosen(way) for way in board.selections)
    return " ".join(filter(None, (chosen and f"Of each search {chosen}.", _conditions(board))))


def _chosen(way: Selection) -> str:
    """How one configuration of a search is chosen, as the end of a sentence."""
    seeds = _count(way.fresh, "fresh seed")
    if way.finalists == 0:
        return "the best trial was chosen, by one training each"
    if way.finalists == 1:
        return f"one trial reached the last step, so {seeds} of it chose nothing"
    return f"the best {way.finalists} trials were trained again with {seeds}, and the one with the best mean was chosen"


def _conditions(board: Board) -> str:
    if board.searches > 1:
        return (
            f"Each study was searched {board.searches} times, with other points and seeds. Intervals and tests are over "
            "these searches, so the claims are about methods with such a search. They are conditional on one teacher "
            "per pair."
        )
    if not board.trials[1]:
        return "Nothing was searched: every claim is about these settings, and conditional on one teacher per pair."
    return (
        "Every claim is conditional on one search per method and pair, and on one teacher per pair: it is about the "
        "configurations that these searches found. Another search would find others. A claim about the methods needs "
        "repeated searches (search.repeats)."
    )


def resolution(board: Board) -> str:
    """The smallest gain that the board could have detected, and what half of it needs; empty without an interval."""
    found = board.comparison.resolution
    if found is None:
        return ""
    return (
        f"What could be detected: with {found.replicates} {noise(board)}, a true gain of {100 * found.gain:.1f} points "
        f"is found with a probability of 80 %, and half of it with {found.for_half} {noise(board)} (one two-sided test "
        f"at 5 %; the adjustment for many comparisons needs more). The paired gains over the student alone have a "
        f"standard deviation over {noise(board)} of {100 * found.deviation:.2f} points (root mean square over methods, "
        "mean over pairs)."
    )


def evidence_note(board: Board) -> str:
    """What the columns of p values and of the interval over test pictures mean."""
    p = [row.p_differs_from_student for row in board.rows if row.p_differs_from_student is not None]
    return " ".join(
        [
            f"p: two-sided, paired over {noise(board)}, adjusted over all comparisons of the board; ▲ surely better "
            "than the student alone, ▼ surely worse.",
            "Gain over test pictures: 95 % interval for other test pictures and these very weights; the interval in "
            f"the table above is for other {noise(board)} and these test pictures.",
            *equal_probabilities(p),
        ]
    )


def on_pair_note(board: Board, probabilities: Sequence[float]) -> str:
    """What the p values of each pair mean."""
    several = "" if len(board.pairs) == 1 else ", and multiplied by the number of pairs"
    return " ".join(
        [
            f"p on this pair: two-sided against the student alone, paired over {noise(board)}, adjusted over all comparisons on "
            f"the pair{several}.",
            *equal_probabilities(probabilities),
        ]
    )


def equal_probabilities(probabilities: Sequence[float]) -> list[str]:
    """The explanation of equal adjusted p values, if any are equal."""
    return [EQUAL_PROBABILITIES] if len(set(probabilities)) < len(probabilities) else []


def legend(board: Board) -> str:
    """The meaning of the columns, and of the marks that occur."""
    marks = "".join(row.marks for row in board.rows)
    parts = [
        f"mIoU and gains in points, means over pairs and seeds with 95 % intervals over {noise(board)}, on a page "
        "shaded where an interval leaves out zero; n/a: no interval, as there is one value only, or, for the share of "
        "the gap, as the gap is not surely above zero",
        "training cost: seconds of one final run trained alone, teacher's forward included, over the "
        "student's",
    ]
    if FAILED in marks:
        parts.append(f"{FAILED} failed final runs are scored as the student alone with the same seed")
    if OFF_PROTOCOL in marks:
        parts.append(f"{OFF_PROTOCOL} off the protocol (not leakage-free), not ranked")
    if UNCOMMITTED in marks:
        parts.append(f"{UNCOMMITTED} made with uncommitted code")
    if OTHER_BUDGET in marks:
        parts.append(
            f"{OTHER_BUDGET} searched with more or fewer trials than the other methods of the pair, chosen in another way, or "
            "not searched over the same parameters of the recipe as the student alone"
        )
    return " · ".join(parts) + "."


def _count(number: int, noun: str, plural: str = "") -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {plural or f'{noun}s'}"
