"""What a worker takes along from one cohort to the next."""

from __future__ import annotations

from orchestrator.worker.carried_teacher import CarriedTeacher


def test_a_teacher_is_taken_once_and_any_other_is_let_go() -> None:
    along, model = CarriedTeacher(), object()
    along.put("teachers/a.safetensors", model)
    assert along.take("teachers/a.safetensors") is model
    assert along.take("teachers/a.safetensors") is None
    along.put("teachers/a.safetensors", model)
    assert along.take("teachers/b.safetensors") is None
    assert along.model is None
    along.put("teachers/a.safetensors", model)
    assert along.take(None) is None
    assert along.take("teachers/a.safetensors") is None
