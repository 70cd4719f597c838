"""Which published rows the presets of the field would reproduce, and what that costs: `python benchmarks/published.py`.

Prints a Markdown table for each preset: by pair, the scores in `orchestrator/leaderboard/published_numbers.csv` of the
same student under the same recipe (CIRKD's of 2022, mIoU on val), and the cost of one seed as `--dry-run` counts it.
"""

from __future__ import annotations

import argparse

from orchestrator.leaderboard.published import Published, method_key, published_for
from orchestrator.planning.config import PairConfig, SweepConfig
from orchestrator.planning.cost_estimate import estimate
from orchestrator.planning.loader import load_sweep
from orchestrator.planning.plan import make_plan

PRESETS = ("cityscapes", "voc", "ade20k")
TEACHERS = ("deeplabv3-resnet101", "segformer-mit_b4")
RECIPE, SPLIT = "CIRKD-2022", "val"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("presets", nargs="*", default=PRESETS)
    for preset in parser.parse_args().presets:
        config = load_sweep(preset)
        print(
            f"`{preset}`: {len(config.methods)} methods, {len(config.final.seeds)} seeds, {cost(config, None)}\n"
        )
        print("| pair | student alone | methods | the teacher | one seed of all methods |")
        print("| --- | --- | --- | --- | --- |")
        for pair in config.pairs:
            alone, methods = rows(preset, pair)
            one = config.model_copy(update={"pairs": (pair,)})
            one = one.model_copy(
                update={"final": one.final.model_copy(update={"seeds": one.final.seeds[:1]})}
            )
            print(f"| {pair.label} | {alone} | {methods} | {cost(one, 'teacher')} | {cost(one, 'final')} |")
        print()


def rows(preset: str, pair: PairConfig) -> tuple[str, str]:
    """Published scores of the student alone, whoever its teacher is there, and of the preset's methods on this pair."""
    ran = {method_key(method.name) for method in load_sweep(preset).methods}
    alone = [row for teacher in TEACHERS for row in _published(preset, teacher, pair) if row.is_student_alone]
    taught = [row for row in _published(preset, pair.teacher.model, pair) if method_key(row.method) in ran]
    told = ", ".join(f"{row.method} {float(row.miou):.2f}" for row in taught)
    return (f"{float(alone[0].miou):.2f}" if alone else "–"), told or "–"


def _published(preset: str, teacher: str, pair: PairConfig) -> list[Published]:
    found = published_for(preset, teacher, pair.student.model)
    return [row for row in found if row.recipe.startswith(RECIPE) and row.split == SPLIT]


def cost(config: SweepConfig, phase: str | None) -> str:
    """Operations and the hours that they take at the speed that `--dry-run` assumes."""
    found = estimate(make_plan(config))
    hours = found["worker_hours"] if phase is None else found["phases"][phase]["worker_hours"]
    speed = max(found["assumed_flops_per_second"])
    return f"{hours * 3600 * speed / 1e18:,.2f} EFLOP, {hours:,.0f} h"


if __name__ == "__main__":
    main()
