"""The reference page about methods covers every registered method."""

from distill.methods import list_methods, method_class
from distill.methods.documentation import methods_page
from tests import ROOT


def test_the_page_names_every_method_and_every_setting():
    page = methods_page(ROOT)
    for name in list_methods():
        assert f"\n## {name}\n" in page
        section = page.split(f"\n## {name}\n")[1].split("\n## ")[0]
        for setting in method_class(name).Config.model_fields:
            assert f"| `{setting}` |" in section
