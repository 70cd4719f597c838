"""The first steps of every method's training go as they went before."""

import json

import pytest
from golden_curves import CURVES, NAMES, curve


@pytest.mark.parametrize("name", NAMES)
def test_a_methods_first_losses_are_those_kept(name):
    """A change of a loss's value, gradient or random draws shows here; after a wanted one write the curves anew."""
    kept = json.loads(CURVES.read_text())
    assert curve(name) == pytest.approx(kept[name], rel=0.01)


def test_training_on_the_generated_pictures_lowers_the_task_loss():
    kept = json.loads(CURVES.read_text())
    assert kept["student"][-1] < kept["student"][0]
