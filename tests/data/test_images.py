"""Pictures and label maps are read the same, whichever decoder a file goes to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from distill.data.images import BrokenFileError, read_image, read_values

PIXELS = np.random.default_rng(0).integers(0, 256, (37, 53, 4), dtype=np.uint8)


def write(path: Path, mode: str, **options: Any) -> Path:
    picture = (
        Image.fromarray(PIXELS[..., :3]).quantize(16)
        if mode == "P"
        else Image.fromarray(PIXELS).convert(mode)
    )
    picture.save(path, **options)
    return path


@pytest.mark.parametrize(
    ("mode", "options"),
    [("RGB", {}), ("RGB", {"transparency": (1, 2, 3)}), ("RGBA", {}), ("L", {}), ("P", {}), ("RGB", {"compress_level": 0})],
    ids=str,
)  # fmt: skip
def test_a_picture_has_the_colours_that_pillow_sees(
    tmp_path: Path, mode: str, options: dict[str, Any]
) -> None:
    path = write(tmp_path / "picture.png", mode, **options)
    found = read_image(path)
    assert found.dtype == np.uint8
    assert found.flags.writeable
    np.testing.assert_array_equal(found, np.asarray(Image.open(path).convert("RGB")))


@pytest.mark.parametrize(
    ("mode", "options"), [("L", {}), ("L", {"transparency": 3}), ("P", {}), ("1", {})], ids=str
)
def test_a_label_map_has_the_values_that_pillow_sees(
    tmp_path: Path, mode: str, options: dict[str, Any]
) -> None:
    path = write(tmp_path / "labels.png", mode, **options)
    np.testing.assert_array_equal(read_values(path), np.asarray(Image.open(path)))


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("share", [0.2, 0.7])
def test_a_file_that_was_cut_is_named(tmp_path: Path, mode: str, share: float) -> None:
    path = write(tmp_path / "cut.png", mode)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(BrokenFileError, match=r"cut\.png"):
        (read_image if mode == "RGB" else read_values)(path)
