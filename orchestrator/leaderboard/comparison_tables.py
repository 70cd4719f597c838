"""Tables that compare methods: paired differences, equal steps beside equal seconds, and the expected best of n search trials."""

from __future__ import annotations

import math
from collections.abc import Sequence

from orchestrator.leaderboard.comparison import Difference
from orchestrator.leaderboard.entries import Board
from orchestrator.leaderboard.number_formats import NOTHING, gain, margin, number, points
from orchestrator.leaderboard.statistics import expected_best
from orchestrator.leaderboard.text_tables import SURELY, TextTable
from orchestrator.leaderboard.texts import equal_probabilities, noise
from orchestrator.planning.equal_seconds import SECONDS, STEPS

# With more methods than this, the matrix has no p values.
_WITH_PROBABILITIES = 20
_BEST_OF = (1, 2, 4, 8, 16, 32)


def differences_table(board: Board) -> TextTable:
    """The paired difference of every two methods with its interval, and its adjusted p below the diagonal.

    An interval is written as half of its width: the t interval has the mean in its middle.
    """
    ranked = [standing.method for standing in board.comparison.standings]
    if len(ranked) < 2:
        return TextTable(("",), ())
    brief = len(ranked) > _WITH_PROBABILITIES
    rows = []
    for place, one in enumerate(ranked):
        found = [board.comparison.differences.get((one, other)) for other in ranked]
        below = ["" if brief else _probability(difference) for difference in found[:place]]
        above = [_difference(difference) for difference in found[place + 1 :]]
        rows.append((f"{place + 1} {one}", *below, "", *above))
    header = ("", *(f"{place}" for place in range(1, len(ranked) + 1)))
    return TextTable(header, tuple(rows), note=_note(board, brief))


def _difference(difference: Difference | None) -> str:
    if difference is None:
        return NOTHING
    return SURELY[difference.sure] + margin(difference.estimate)


def _probability(difference: Difference | None) -> str:
    if difference is None or difference.probability is None:
        return NOTHING
    p = difference.probability
    return "<.001" if p < 0.001 else "1" if p > 0.995 else f"{p:.2g}".removeprefix("0")


def _note(board: Board, brief: bool) -> str:
    parts = [
        "Above the diagonal: mIoU of the row minus that of the column, in points, paired by pair and seed, ± the 95 % "
        f"interval over {noise(board)}, each by itself and not adjusted. ▲ the row is surely better, ▼ surely worse: "
        "adjusted p below 0.05, and the interval over test pictures on the same side of zero."
    ]
    if brief:
        parts.append(f"With more than {_WITH_PROBABILITIES} methods the p values are left out.")
    else:
        found = board.comparison.differences.items()
        once = [d.probability for (one, other), d in found if one < other and d.probability is not None]
        parts += ["Below the diagonal: the adjusted p.", *equal_probabilities(once)]
    return " ".join(parts)


def side_by_side(boards: Sequence[Board]) -> list[tuple[str, TextTable]]:
    """The gains at equal steps beside those at equal seconds, with a title, where both were run by the same recipes."""
    found = []
    for seconds in boards:
        for steps in boards:
            if (seconds.compare, steps.compare) == (SECONDS, STEPS) and _place(steps) == _place(seconds):
                title = f"{steps.dataset} · {steps.protocol} · equal steps beside equal seconds"
                found.append((title, _side_by_side(steps, seconds)))
    return found


def _place(board: Board) -> tuple[str, str, list[tuple[str, str]]]:
    return board.dataset, board.protocol, [(pair.pair, pair.recipe) for pair in board.pairs]


def _side_by_side(steps: Board, seconds: Board) -> TextTable:
    of = [{row.method: row for row in board.rows} for board in (steps, seconds)]
    methods = list(dict.fromkeys(row.method for row in (*seconds.rows, *steps.rows)))
    header = (
        "method",
        *(
            f"{name}, equal {basis}"
            for name in ("mIoU", "gain", "training cost")
            for basis in (STEPS, SECONDS)
        ),
    )
    rows = []
    for method in methods:
        both = [rows_of.get(method) for rows_of in of]
        rows.append(
            (
                method,
                *(points(row.miou if row else None) for row in both),
                *(
                    NOTHING
                    if row is None
                    else "0"
                    if method == board.baseline and row.gain is not None
                    else gain(row)
                    for row, board in zip(both, (steps, seconds), strict=True)
                ),
                *(number(row.train_cost_relative if row else None, 1, 2, " ×") for row in both),
            )
        )
    return TextTable(
        header,
        tuple(rows),
        methods=tuple(methods),
        note="mIoU and gains over the student alone in points, gains with their 95 % intervals. Methods are ranked and tested within "
        "each of the two boards only. Training cost: measured seconds of the final runs over those of the student alone; at "
        "equal seconds it is near 1 where the cost that decided the steps was right.",
    )


def best_of(board: Board) -> dict[str, tuple[float, ...]]:
    """Expected best tune mIoU of 1, 2, … search trials by method: the mean over pairs, up to the fewest trials of a pair.

    Only for methods none of whose trials was pruned: a score at a rung is not a score, and the trials that pruning
    leaves are not random draws. Empty for an adaptive search, because its later trials depend on the earlier ones.
    """
    found = {}
    for row in board.rows if not board.adaptive else ():
        cells = [board.cells[pair.pair, row.method] for pair in board.pairs]
        if any(cell.pruned for cell in cells):
            continue
        curves = [expected_best(cell.tuning) for cell in cells]
        found[row.method] = tuple(math.fsum(values) / len(curves) for values in zip(*curves, strict=False))
    return {method: values for method, values in found.items() if values}


def best_of_note(board: Board) -> str:
    """Why the expected best of n trials is not given, or for how many methods; empty if it is given for all."""
    if board.adaptive:
        return "Not given: the search is adaptive or begins with given configurations, so its trials are not random draws."
    pruned = {method for (_, method), cell in board.cells.items() if cell.pruned}
    if not pruned:
        return ""
    methods = (
        "all methods" if len(pruned) == len(board.rows) else f"{len(pruned)} of {len(board.rows)} methods"
    )
    return (
        f"Not given for {methods}: some of their trials were pruned. A score at a rung is not a score after all steps, "
        "and the trials that pruning leaves are not random draws."
    )


def best_of_table(board: Board) -> TextTable:
    """Expected best tune mIoU of n search trials, for some n."""
    curves = best_of(board)
    counts = [n for n in _BEST_OF if n <= max(map(len, curves.values()), default=0)]
    rows = tuple(
        (method, *(points(values[n - 1] if len(values) >= n else None) for n in counts))
        for method, values in curves.items()
    )
    return TextTable(("method", *(f"best of {n}" for n in counts)), rows, methods=tuple(curves))
