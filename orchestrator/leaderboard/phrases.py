"""The sentences and figures of a board, the same on every page."""

from __future__ import annotations

from orchestrator.leaderboard.entries import Board, Row

HOW_TO_READ = (
    "A rank such as 2–5 means that the data do not say where between 2 and 5 the method stands: it is 1 "
    "+ how many methods are surely better, to K − how many are surely worse.",
    "Surely better means both: the seed-paired t test, Holm-adjusted over all pairs of methods, gives p "
    "< 0.05, and the interval over test pictures lies above zero.",
    "A gain is the mean difference to the student alone with the same pair and seed, so with the same "
    "data order and initialisation; the student had the same search over its own recipe. Its interval is "
    "the paired t interval over seeds.",
    "The interval over test pictures is a paired bootstrap with one draw for all methods: it says how "
    "far another test set of this kind could move the gain of these very weights. It knows nothing of "
    "other seeds.",
    "A percentile bootstrap of 3 seeds covers 75 % where 95 % is written: hence t intervals.",
    "With 5 pairs no Wilcoxon test can go below p = 0.06: hence no test over pairs.",
    "The best of 20 trials of an identical method beats one run 95 % of the time: compare only equal "
    "budgets.",
    "Ranks are per data set and recipe. Hiding rows changes no rank.",
)


def protocol_line(board: Board) -> str:
    """N methods · M pairs · S seeds · T trials per method and pair · GPU-hours · how it was scored."""
    low, high = board.trials
    trials = f"{low}" if low == high else f"{low}–{high}"
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
            f"{trials} trials per method and pair",
            f"{board.gpu_hours:.2f} GPU-hours",
            scored,
        ]
    )


def verdict(board: Board) -> str:
    """Who cannot be told apart from the best, in one sentence."""
    if not board.ranked:
        return "Not ranked: these runs are off the protocol."
    if not board.best:
        return "Nothing to rank yet: no method has a final run on every pair."
    if len(board.rows) > 1 and not board.comparison.probabilities:
        return "No method can be told apart from another: that needs at least two seeds of each."
    if len(board.best) == 1:
        return f"{board.best[0]} is surely better than every other ranked method."
    return f"{len(board.best)} methods cannot be told apart from the best: {', '.join(board.best)}."


def rank(row: Row) -> str:
    """The rank interval, or a dash where the method is not ranked."""
    if row.rank_low is None or row.rank_high is None:
        return "–"
    return f"{row.rank_low}" if row.rank_low == row.rank_high else f"{row.rank_low}–{row.rank_high}"


def gain(row: Row) -> str:
    """The gain over the student alone with its paired interval, in points."""
    return signed(row.gain) + (
        interval(row.gain_low, row.gain_high, sign=True) if row.gain is not None else ""
    )


def signed(value: float | None) -> str:
    """A difference of mIoU in points, with its sign."""
    return "–" if value is None else f"{_unsigned_zero(100 * value):+.2f}"


def interval(low: float | None, high: float | None, *, sign: bool = False) -> str:
    """` [low, high]` in points; ` (n/a)` where there is none, never an interval of zero width."""
    if low is None or high is None:
        return " (n/a)"
    form = "+.2f" if sign else ".2f"
    return f" [{_unsigned_zero(100 * low):{form}}, {_unsigned_zero(100 * high):{form}}]"


def _unsigned_zero(value: float) -> float:
    return 0.0 if round(value, 2) == 0 else value


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
