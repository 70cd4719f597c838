from __future__ import annotations

from importlib.metadata import version

from orchestrator import __version__
from orchestrator.console.known_names import known_names, render_names, versions
from orchestrator.planning.loader import load_sweep


def test_every_preset_and_method_is_listed_with_what_it_is() -> None:
    names = known_names()
    presets = next(entries for title, entries in names.items() if title.startswith("presets"))
    methods = next(entries for title, entries in names.items() if title.startswith("methods"))
    assert all(presets.values())
    assert all(methods.values())
    assert {load_sweep(name).name for name in presets if name in ("laptop", "smoke")} == {"laptop", "smoke"}
    assert {method.name for method in load_sweep("laptop").methods} <= set(methods)


def test_the_list_fits_a_terminal() -> None:
    text = render_names(known_names())
    assert max(map(len, text.splitlines())) <= 100
    assert "  scenes_cnn_to_cnn " in text


def test_the_version_names_what_results_depend_on() -> None:
    assert (
        versions()
        == f"heteroakd {__version__} (torch {version('torch')}, timm {version('timm')}, ray {version('ray')})"
    )
