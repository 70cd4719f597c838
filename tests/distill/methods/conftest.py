import pytest

from tests.distill.methods.method_cases import Case, make_case


@pytest.fixture
def case() -> Case:
    """Maps of four classes, with ignored pixels."""
    return make_case(2, 4, 5, 3, 1.5, 0.3, 0)
