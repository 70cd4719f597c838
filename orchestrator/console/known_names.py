"""What `--list` prints: every name that a sweep file or the command line can use."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from importlib.metadata import version

from distill.catalogue.reader import load_catalogue
from distill.data.config import KINDS
from orchestrator.planning.tune_searchers import known_samplers
from search_spaces import library, preset_names, preset_path

_WIDTH = 100
_LIBRARIES = ("torch", "timm", "ray")


def known_names() -> dict[str, dict[str, str]]:
    """Kind of name → name → what it is, in one sentence or less."""
    catalogue = load_catalogue()
    backbones = sorted(catalogue.backbones.values(), key=lambda entry: entry.name)
    return {
        "presets (python -m orchestrator.sweep NAME)": {name: _comment(name) for name in preset_names()},
        "methods (methods: [NAME, …])": {
            name: f"{entry.card['title']} ({entry.card['venue']} {entry.card['year']})"
            for name, entry in sorted(catalogue.methods.items())
        },
        "heads (model: HEAD-BACKBONE)": {
            name: entry.title for name, entry in sorted(catalogue.heads.items())
        },
        "backbones (any of timm's with at least four feature maps)": {
            f"{len(backbones)} names": "such as resnet18, resnet101, mobilenetv2_100, convnext_tiny, mit_b0 to mit_b5; "
            "https://huggingface.co/timm has more"
        },
        "pairs (pairs: [{pair: NAME, data: DATA SET}])": {
            name: f"{pair['teacher']['model']} → {pair['student']['model']}"
            for name, pair in library.pairs().items()
        },
        "recipes": {name: f"{recipe['steps']} steps" for name, recipe in library.recipes().items()},
        "data kinds (data: {NAME: {kind: KIND, …}})": {
            kind: (config.__doc__ or "").split("\n")[0] for kind, config in KINDS.items()
        },
        "samplers (search.sampler)": known_samplers(),
        "prices (budget.price)": {
            name: f"{price['hour']} {library.currency()} an hour: {price['what']}"
            for name, price in library.prices().items()
        },
    }


def render_names(names: Mapping[str, Mapping[str, str]]) -> str:
    """The names as text of at most 100 columns."""
    lines = []
    for title, entries in names.items():
        lines += [title]
        width = max(map(len, entries)) + 4
        for name, meaning in entries.items():
            lines += textwrap.wrap(
                f"  {name:<{width - 2}}{meaning}".rstrip(), _WIDTH, subsequent_indent=" " * width
            )
        lines.append("")
    return "\n".join(
        [*lines, "every setting of a sweep file: docs/sweep_file.md; a method's settings: docs/methods.md"]
    )


def versions() -> str:
    """The version of this program and of the libraries that results depend on."""
    from orchestrator import __version__

    return f"heteroakd {__version__} ({', '.join(f'{name} {version(name)}' for name in _LIBRARIES)})"


def _comment(preset: str) -> str:
    """The first sentence of the comment at the top of a preset."""
    lines = preset_path(preset).read_text(encoding="utf-8").splitlines()
    comment = " ".join(line.removeprefix("#").strip() for line in lines if line.startswith("#"))
    return comment.split(". ")[0].removesuffix(".")
