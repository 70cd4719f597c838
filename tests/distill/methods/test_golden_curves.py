"""50 steps of every method's training on generated scenes go as they went before."""

from __future__ import annotations

import json

import pytest

from tests.distill.methods.golden_curves import CURVES, NAMES, STEPS, curve


@pytest.mark.parametrize("name", NAMES)
def test_a_methods_training_goes_as_the_one_kept(name: str) -> None:
    """A change of a loss's value, gradient or random draws shows here; after a wanted one write the curves anew."""
    kept = json.loads(CURVES.read_text())[name]
    assert len(kept) == STEPS
    assert curve(name) == pytest.approx(kept, rel=1e-3)


def test_the_student_alone_learns_on_the_generated_scenes() -> None:
    kept = json.loads(CURVES.read_text())["student"]
    assert sum(kept[-10:]) < 0.9 * sum(kept[:10])
