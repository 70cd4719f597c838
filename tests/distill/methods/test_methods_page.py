"""The reference page about methods covers every registered method."""

from distill.methods import list_methods, method_class
from distill.methods.documentation import methods_page
from distill.methods.readings import READINGS
from tests import ROOT


def test_the_page_names_every_method_and_every_setting():
    page = methods_page(ROOT)
    for name in list_methods():
        assert f"\n## {name}\n" in page
        section = page.split(f"\n## {name}\n")[1].split("\n## ")[0]
        for setting in method_class(name).Config.model_fields:
            assert f"| `{setting}` |" in section


def test_the_page_has_a_row_for_each_reading_and_where_its_term_leads():
    section = methods_page(ROOT).split("### Readings\n")[1].split("\n## ")[0]
    explained, measured = section.split("| reading | p(true)")
    for name in READINGS:
        assert f"`{name}`" in explained
        assert name == "paper" or f"| {name} | 0." in measured
