"""The sentences about a board, for all pages."""

from __future__ import annotations

from orchestrator.leaderboard.comparison import SIGNIFICANCE
from orchestrator.leaderboard.entries import FAILED, OFF_PROTOCOL, UNCOMMITTED, Board, BoardRow

HOW_TO_READ = (
    "A rank such as 2–5 means that the data do not say where between 2 and 5 the method stands: it is 1 "
    "+ how many methods are surely better, to K − how many are surely worse.",
    "Surely better means both: the seed-paired t test, Holm-adjusted over all pairs of methods, gives p "
    "< 0.05, and the interval over test pictures lies above zero.",
    "Better than the student alone is a question of its own, one for each method, so it is Holm-adjusted over "
    "fewer tests than the ranks are: a method may pass it and still share ranks with the student.",
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


def board_title(board: Board, several: bool) -> str:
    """Data set and protocol; with the recipes if a page has several boards."""
    recipes = ", ".join(f"{pair.pair}: {pair.recipe}" for pair in board.pairs)
    return f"{board.dataset} · {board.protocol}" + (f" · recipe {recipes}" if several else "")


def protocol_line(board: Board) -> str:
    """N methods · M pairs · S seeds · T trials per method and pair · hours of GPUs or workers · how it was scored."""
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
            f"{board.gpu_hours:.2f} {board.hours_unit}",
            scored,
        ]
    )


def verdict(board: Board) -> str:
    """Sentences on the methods that share the first rank, those surely better than the student alone, and budgets."""
    parts = [_leaders(board)]
    if board.ranked and board.comparison.probabilities:
        parts += _winners(board)
    low, high = board.trials
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
    if not board.comparison.probabilities:
        return "No method can be told apart from another: that needs at least two seeds of each."
    if len(board.best) == 1:
        return f"{board.best[0]} is surely better than every other ranked method."
    return f"{len(board.best)} methods cannot be told apart from the best: {', '.join(board.best)}."


def _winners(board: Board) -> list[str]:
    """A sentence on the methods that are surely better than the student alone, by the p values of the table."""
    tested = [row for row in board.rows if row.p_better_than_student is not None]
    winners = [row.method for row in tested if _beats_student(row)]
    if not tested:
        return []
    if not winners:
        return ["Compared with the student alone, none is surely better."]
    if len(winners) == len(tested) > 1:
        return ["Compared with the student alone, every other method is surely better."]
    verb = "is" if len(winners) == 1 else "are"
    return [f"Compared with the student alone, {', '.join(winners)} {verb} surely better."]


def _beats_student(row: BoardRow) -> bool:
    p = row.p_better_than_student
    over_pictures = row.gain_image_low is None or row.gain_image_low > 0
    return p is not None and p < SIGNIFICANCE and over_pictures


def legend(board: Board) -> str:
    """The meaning of the columns, and of the marks that occur."""
    marks = "".join(row.marks for row in board.rows)
    parts = [
        "mIoU and gains in points, means over pairs and seeds with 95 % intervals, on a page shaded where "
        "an interval leaves out zero; n/a: one seed gives no interval",
        "training cost: seconds of one final run trained alone, teacher's forward included, over the "
        "student's",
    ]
    if FAILED in marks:
        parts.append(f"{FAILED} failed final runs are scored as the student alone with the same seed")
    if OFF_PROTOCOL in marks:
        parts.append(f"{OFF_PROTOCOL} off the protocol (not leakage-free), not ranked")
    if UNCOMMITTED in marks:
        parts.append(f"{UNCOMMITTED} made with uncommitted code")
    return " · ".join(parts) + "."


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
