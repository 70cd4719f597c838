"""Every method of every shipped sweep file is tuned as well as every other one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from distill.catalogue.reader import load_catalogue
from distill.methods.readings import DEFAULT_READING
from distill.relative_weights import PREFIX
from orchestrator.planning.config import MethodSelection, SweepConfig
from orchestrator.planning.loader import load_sweep
from orchestrator.planning.method_settings import all_settings, method_space, untuned, untuned_sentences
from search_spaces import Domain, preset_names
from tests import ROOT

STUDIES = {path.stem: path for path in (ROOT / "benchmarks" / "studies").glob("*.yaml")}
OTHERS = {
    "selection": "the configurations of a committed table, which compares no methods",
}
SHIPPED = [*preset_names(), *(str(path) for name, path in sorted(STUDIES.items()) if name not in OTHERS)]
# Without a search all methods have fixed settings, the student alone too.
FILES = [file for file in SHIPPED if load_sweep(file).search.trials]
READINGS = ("literal", "paper", "pixel", "bernoulli", "summary", "stable")


def parameters(choice: MethodSelection) -> dict[str, Domain]:
    """What is searched, by the name of the setting, whether a weight is relative or not."""
    return {name.removeprefix(PREFIX): domain for name, domain in method_space(choice).parameters.items()}


def companions(choice: MethodSelection) -> Iterator[tuple[str, str, str]]:
    """Each method whose term another one adds to its own with a weight above 0: name, weight and temperature there."""
    settings = all_settings(choice.name, choice.config)
    for part in choice.name.split("+"):
        prefix = f"{part}." if "+" in choice.name else ""
        own = {name.removeprefix(prefix) for name in settings if name.startswith(prefix)}
        for companion in set(load_catalogue().methods) - {part}:
            weight = f"{companion}_weight"
            if weight not in own or not settings[prefix + weight]:
                continue
            if f"{companion}_temperature" in own:
                yield companion, prefix + weight, f"{prefix}{companion}_temperature"
            elif "temperature" in load_catalogue().methods[companion].settings["properties"]:
                yield companion, prefix + weight, prefix + "temperature"


def covers(domain: Domain | None, other: Domain) -> bool:
    """Whether a domain has every value of another one, on the same scale."""
    if domain is None or domain.logarithmic != other.logarithmic:
        return False
    (low, high), (other_low, other_high) = domain.bounds() or (1, 0), other.bounds() or (0, 1)
    return low <= other_low and high >= other_high


def unequal(config: SweepConfig) -> Iterator[str]:
    """What a method of a sweep is not tuned in as well as the others."""
    rows = {choice.name: parameters(choice) for choice in config.methods}
    recipe = rows["student"]
    if set(recipe) != {"recipe.lr", "recipe.weight_decay"}:
        yield f"student searches {sorted(recipe)}"
    for choice in config.methods:
        found = parameters(choice)
        own = {name: domain for name, domain in found.items() if name.startswith("recipe.")}
        if own != recipe:
            yield f"{choice.title} searches of the recipe {own}"
        for companion, weight, temperature in companions(choice):
            wanted = rows.get(companion) or parameters(MethodSelection(name=companion))
            if not covers(found.get(weight), wanted[f"{companion}_weight"]):
                yield f"{choice.title} searches {weight} in {found.get(weight)}"
            if not covers(found.get(temperature), wanted["temperature"]):
                yield f"{choice.title} searches {temperature} in {found.get(temperature)}"


@pytest.mark.parametrize("file", FILES, ids=lambda file: Path(file).stem)
def test_every_method_of_a_shipped_file_is_tuned_like_the_student_and_its_companions_like_themselves(
    file: str,
) -> None:
    assert list(unequal(load_sweep(file))) == []


def test_every_method_and_reading_in_its_default_space_is_tuned_like_the_others() -> None:
    everything = [MethodSelection(name=name) for name in load_catalogue().methods] + [
        MethodSelection(name="heteroakd", label=name, config={"preset": name}) for name in READINGS
    ]
    config = load_sweep("smoke").model_copy(update={"methods": tuple(everything)})
    found = {companion for choice in everything for companion, _, _ in companions(choice)}
    assert found == {"kd", "cwd", "mgd"} - {"mgd"}
    assert list(unequal(config)) == []


def test_an_untuned_recipe_and_an_untuned_companion_are_found() -> None:
    config = load_sweep("scenes")
    changed = [
        choice.model_copy(update={"space": {k: v for k, v in (choice.space or {}).items() if k != left_out}})
        for choice, left_out in zip(
            config.methods, ["", "recipe.weight_decay", "temperature", "kd_temperature"], strict=False
        )
    ]
    found = list(unequal(config.model_copy(update={"methods": tuple(changed)})))
    assert [line.partition(" searches ")[0] for line in found] == ["kd", "heteroakd", "cwd"]


def test_a_space_that_lacks_changes_or_adds_parameters_of_the_recipe_is_named_with_them() -> None:
    rate, decay = ({"scale_log_uniform": bounds} for bounds in ([0.25, 4], [0.1, 10]))
    recipe = {"recipe.lr": rate, "recipe.weight_decay": decay}
    given = {
        "equal": recipe,
        "neither": {},
        "no weights": {"temperature": {"uniform": [1, 4]}},
        "narrow": {**recipe, "recipe.lr": {"scale_log_uniform": [0.5, 2]}},
        "more": {**recipe, "recipe.momentum": {"uniform": [0.8, 0.99]}},
    }
    methods = [MethodSelection(name="student"), MethodSelection(name="cwd")]
    methods += [
        MethodSelection(name="kd", label=title.replace(" ", "-"), space=space)
        for title, space in given.items()
    ]
    found = untuned(methods)
    both = ("recipe.lr", "recipe.weight_decay")
    assert found == {
        "neither": both,
        "no-weights": both,
        "narrow": ("recipe.lr",),
        "more": ("recipe.momentum",),
    }
    assert untuned_sentences(found)[0].startswith(
        "recipe.lr and recipe.weight_decay are not searched by neither, no-weights as by the student alone"
    )


def test_every_relative_range_of_the_benchmark_has_a_weight_that_pulls_about_as_hard_as_the_task_at_the_end() -> (
    None
):
    drift = json.loads((ROOT / "benchmarks" / "drift.json").read_text(encoding="utf-8"))["rows"]
    chosen = f"heteroakd, {DEFAULT_READING}"
    checked = set()
    for choice in load_sweep("scenes").methods:
        for name, domain in (choice.space or {}).items():
            part, _, weight = name.removeprefix(PREFIX).rpartition(".")
            method, term = part or choice.name, weight.removesuffix("_weight")
            cases = {"heteroakd": [chosen], "cwd": ["cwd", "cwd, features"]}.get(method, [method])
            found = [row["drift"] for row in drift if row["case"] in cases and row["term"] == term]
            if not name.startswith(PREFIX) or not found:
                continue
            low, high = domain["log_uniform"]
            enough = 0.5 if method == "ifvd" else 1  # as docs/methods.md says
            assert all(low * change <= 1 and high * change >= enough for change in found), (choice.name, name)
            checked.add((choice.name, name))
    assert len(checked) >= 21
