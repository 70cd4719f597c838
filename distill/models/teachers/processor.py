"""How an image processor of `transformers` changes the values of a picture, from its saved config."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from distill.errors import UsageError
from distill.models.checkpoint import CheckpointMetadata
from distill.normalisation import Triple
from distill.teacher_source import PROCESSOR_FILES

_BRIGHTEST = 255  # a processor gets bytes; our images are in [0, 1] before they are normalised
_HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
_IMAGENET = (CheckpointMetadata.mean, CheckpointMetadata.std)
# Mean and standard deviation of a processor whose config does not have them.
_DEFAULTS = {"Segformer": _IMAGENET, "DPT": _HALF}
_OF_MODEL = {"segformer": "Segformer", "upernet": "Segformer", "dpt": "DPT"}
# Switches that change the geometry, which is decided by the sweep's data, or only the labels.
_WITHOUT_EFFECT = {"do_resize", "do_center_crop", "do_convert_rgb", "do_reduce_labels"}
_HONOURED = {"do_rescale", "do_normalize"}


def normalisation(folder: Path, model_type: str) -> tuple[Triple, Triple]:
    """Mean and standard deviation, for RGB in [0, 1], that give what the model's own processor would give.

    A processor computes `(bytes · rescale_factor − image_mean) / image_std`, without the steps that its config switches
    off. A folder without a config gets ImageNet's values. Resizing and cropping are left to the sweep.

    Args:
        folder: the model's folder.
        model_type: of its `config.json`; decides the defaults if the processor's config names no class.

    Raises:
        UsageError: the config has an invalid value, or a step that changes pictures in another way.
    """
    found = _config(folder)
    if found is None:
        return _IMAGENET
    path, said = found
    others = sorted(
        key
        for key, value in said.items()
        if key.startswith("do_") and value and key not in _HONOURED | _WITHOUT_EFFECT
    )
    if others:
        raise UsageError(
            f"'{path}' has {others[0]} {said[others[0]]}: a step that this program does not do. Only do_rescale and "
            f"do_normalize are; train the model without it and write {others[0]} false, or export the model together "
            "with the step and use kind `export`"
        )
    scale = _scale(said, path)
    if not _switch(said, "do_normalize", path):
        return (0.0, 0.0, 0.0), (1 / scale,) * 3
    mean, std = _statistics(said, path, model_type)
    return cast("Triple", tuple(m / scale for m in mean)), cast("Triple", tuple(s / scale for s in std))


def _config(folder: Path) -> tuple[Path, Mapping[str, Any]] | None:
    for name in PROCESSOR_FILES:
        path = folder / name
        if not path.is_file():
            continue
        said = json.loads(path.read_text(encoding="utf-8"))
        if name == PROCESSOR_FILES[0]:
            said = said.get("image_processor") if isinstance(said, dict) else said
            if said is None:
                continue
        if not isinstance(said, dict):
            raise UsageError(f"'{path}' is a {type(said).__name__}, must be a JSON object")
        return path, said
    return None


def _switch(said: Mapping[str, Any], key: str, path: Path) -> bool:
    value = said.get(key, True)
    if value is None:  # as in transformers, a null switches a step off
        return False
    if not isinstance(value, bool):
        raise UsageError(f"'{path}' has {key} {value!r}, must be true or false")
    return value


def _scale(said: Mapping[str, Any], path: Path) -> float:
    """What a value of 1 in our images is after the processor's rescaling."""
    if not _switch(said, "do_rescale", path):
        return float(_BRIGHTEST)
    factor = said.get("rescale_factor", 1 / _BRIGHTEST)
    if isinstance(factor, bool) or not isinstance(factor, int | float) or not 0 < factor < math.inf:
        raise UsageError(f"'{path}' has rescale_factor {factor!r}, must be a number above 0, usually 1/255")
    scale = factor * _BRIGHTEST
    return 1.0 if math.isclose(scale, 1, rel_tol=1e-6) else scale


def _statistics(said: Mapping[str, Any], path: Path, model_type: str) -> tuple[Triple, Triple]:
    named = (
        said.get("image_processor_type")
        or said.get("feature_extractor_type")
        or _OF_MODEL.get(model_type, "")
    )
    defaults = next((values for kind, values in _DEFAULTS.items() if str(named).startswith(kind)), None)
    found = []
    for index, key in enumerate(("image_mean", "image_std")):
        if key not in said and defaults is None:
            raise UsageError(
                f"'{path}' has no {key} and is of a {named or 'processor without a class'}: write {key}"
            )
        value = said[key] if defaults is None else said.get(key, defaults[index])
        triple = [value] * 3 if isinstance(value, int | float) else value
        if not _is_triple(triple) or (key == "image_std" and 0 in triple):
            raise UsageError(
                f"'{path}' has {key} {value}, must be three finite numbers"
                + (", none of them 0" if key == "image_std" else "")
            )
        found.append(cast("Triple", tuple(map(float, triple))))
    return found[0], found[1]


def _is_triple(value: Any) -> bool:
    return (
        isinstance(value, list | tuple)
        and len(value) == 3
        and all(isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) for v in value)
    )
