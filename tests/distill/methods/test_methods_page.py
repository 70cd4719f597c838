"""The page about all methods says what the code says."""

from distill.methods import list_methods, method_class
from distill.methods.documentation import methods_page
from tests import ROOT


def test_the_page_is_the_one_the_code_writes():
    """Out of date? `python -m distill.methods docs`."""
    assert (ROOT / "docs" / "methods.md").read_text(encoding="utf-8") == methods_page(ROOT)


def test_the_page_names_every_method_and_every_setting():
    page = methods_page(ROOT)
    for name in list_methods():
        assert f"\n## {name}\n" in page
        section = page.split(f"\n## {name}\n")[1].split("\n## ")[0]
        for setting in method_class(name).Config.model_fields:
            assert f"| `{setting}` |" in section
