"""Pictures and label maps are read the same, whichever decoder a file goes to."""

from __future__ import annotations

import struct
import zlib
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


def interlaced_png(pixels: np.ndarray) -> bytes:
    """A grey or RGB picture in the seven passes of Adam7 (PNG specification, section 8.2), rows unfiltered."""
    passes = [
        (0, 0, 8, 8),
        (0, 4, 8, 8),
        (4, 0, 8, 4),
        (0, 2, 4, 4),
        (2, 0, 4, 2),
        (0, 1, 2, 2),
        (1, 0, 2, 1),
    ]
    rows = [row for y, x, down, right in passes for row in pixels[y::down, x::right]]
    header = struct.pack(
        ">IIBBBBB", pixels.shape[1], pixels.shape[0], 8, 2 if pixels.ndim == 3 else 0, 0, 0, 1
    )
    chunks = (
        (b"IHDR", header),
        (b"IDAT", zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


def test_interlaced_files_are_read_as_others_are(tmp_path: Path) -> None:
    picture, labels = tmp_path / "picture.png", tmp_path / "labels.png"
    picture.write_bytes(interlaced_png(PIXELS[..., :3]))
    labels.write_bytes(interlaced_png(PIXELS[..., 0]))
    np.testing.assert_array_equal(read_image(picture), PIXELS[..., :3])
    np.testing.assert_array_equal(read_values(labels), PIXELS[..., 0])


@pytest.mark.parametrize("colour_type", [0, 2])
def test_a_header_that_promises_more_than_any_memory_holds_names_its_file(
    tmp_path: Path, colour_type: int
) -> None:
    path = tmp_path / "huge.png"
    data = bytearray(interlaced_png(PIXELS[..., 0] if colour_type == 0 else PIXELS[..., :3]))
    data[16:24] = struct.pack(">II", 2**30, 2**30)
    data[28] = 0
    path.write_bytes(data)
    with pytest.raises(BrokenFileError, match=r"huge\.png"):
        (read_values if colour_type == 0 else read_image)(path)
