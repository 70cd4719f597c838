"""Pictures, masks, class tables and lists of a `folder` data set: any bytes in them are read or refused by name."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import strategies as st
from PIL import Image

from distill.data.__main__ import main as data_main
from tests.fuzz.fuzzing import damaged, exits, fingerprint, fuzz, text

SIDE = 24
CLASSES = "value,name,red,green,blue\n0,sky,1,2,3\n1,road,4,5,6\n2,car,,,\n"


def encoded(values: np.ndarray, kind: str = "PNG", mode: str | None = None) -> bytes:
    picture = Image.fromarray(values) if mode is None else Image.fromarray(values).convert(mode)
    buffer = io.BytesIO()
    picture.save(buffer, kind)
    return buffer.getvalue()


_random = np.random.default_rng(0)
COLOURS = _random.integers(0, 256, (SIDE, SIDE, 3)).astype(np.uint8)
VALUES = _random.integers(0, 3, (SIDE, SIDE)).astype(np.uint8)
IMAGES = [encoded(COLOURS), encoded(COLOURS, "JPEG"), encoded(COLOURS, "PNG", "RGBA")]
MASKS = [encoded(VALUES), encoded(VALUES, "PNG", "P")]
NAMES = ["a", "b", "c", "d"]


def bomb(side: int, depth: int = 8) -> bytes:
    """A sound PNG of a few bytes whose pixels would fill gigabytes."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", side, side, depth, 0, 0, 0, 0)
    rows = zlib.compress(bytes(100_000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pictures")
    for name in ("images", "masks"):
        (root / name).mkdir()
    restore(root)
    config = f"kind: folder\nroot: {root}\nclasses: classes.csv\nignored: [255]\n"
    (root / "data.yaml").write_text(config)
    return root


def restore(root: Path) -> None:
    for name in NAMES:
        (root / "images" / f"{name}.png").write_bytes(IMAGES[0])
        (root / "masks" / f"{name}.png").write_bytes(MASKS[0])
    (root / "classes.csv").write_text(CLASSES)
    (root / "train.txt").write_text("a\nb\n")
    (root / "test.txt").write_text("c\nd\n")


def check(folder: Path, target: str, file: str, data: bytes, *, full: bool = True) -> int:
    """The check of the data set with these bytes in one of its files."""
    path = folder / file
    sound = path.read_bytes()
    path.write_bytes(data)
    before = fingerprint(folder)
    try:
        arguments = ["check", str(folder / "data.yaml"), *(["--full"] if full else [])]
        code = exits(target, lambda: data_main(arguments))
        assert fingerprint(folder) == before
    finally:
        path.write_bytes(sound)
    return code


def test_the_data_set_that_is_damaged_is_sound(folder: Path) -> None:
    for image in IMAGES:
        assert check(folder, "images", "images/a.png", image) == 0
    for mask in MASKS:
        assert check(folder, "masks", "masks/a.png", mask) == 0


@fuzz(150, data=st.sampled_from(IMAGES).flatmap(damaged), full=st.booleans())
def test_a_damaged_image_is_read_or_refused(folder: Path, data: bytes, full: bool) -> None:
    check(folder, "images", "images/a.png", data, full=full)


@fuzz(150, data=st.sampled_from(MASKS).flatmap(damaged), full=st.booleans())
def test_a_damaged_mask_is_read_or_refused(folder: Path, data: bytes, full: bool) -> None:
    check(folder, "masks", "masks/a.png", data, full=full)


shapes = st.tuples(st.sampled_from((1, 7, SIDE, 300)), st.sampled_from((1, SIDE, 25)))


@st.composite
def pictures(draw: st.DrawFn) -> bytes:
    """Sound files of every mode, size and content, most of which no mask may have."""
    height, width = draw(st.one_of(st.just((SIDE, SIDE)), shapes))
    highest = draw(st.sampled_from((3, 4, 255, 256)))
    mode = draw(st.sampled_from(("L", "P", "1", "LA", "RGB", "RGBA", "CMYK", "I;16")))
    values = np.random.default_rng(draw(st.integers(0, 99))).integers(0, highest, (height, width))
    if mode == "I;16":
        return encoded(values.astype(np.uint16))
    return encoded(values.astype(np.uint8), "JPEG" if mode == "CMYK" else "PNG", mode)


@fuzz(60, data=pictures(), file=st.sampled_from(("masks/a.png", "images/c.png")), full=st.booleans())
def test_a_picture_of_another_mode_size_or_content_is_read_or_refused(
    folder: Path, data: bytes, file: str, full: bool
) -> None:
    check(folder, "pictures of other kinds", file, data, full=full)


@pytest.mark.parametrize("file", ["images/a.png", "masks/c.png"])
@pytest.mark.parametrize("data", [bomb(30_000), bomb(2**31 - 1), bomb(20_000, 16), b"", b"\x89PNG\r\n\x1a\n"])
def test_a_picture_that_would_fill_the_memory_is_refused(folder: Path, file: str, data: bytes) -> None:
    assert check(folder, "bombs", file, data) == 2


cells = st.one_of(
    text, st.sampled_from(["0", "1", "-1", "256", "1e9", "nan", "=1", "a\0", '"', "9" * 5000, "\x1b[1m"])
)
lines = st.lists(st.lists(cells, max_size=6).map(",".join), max_size=5).map("\n".join)


@fuzz(
    80,
    data=st.one_of(
        lines.map(lambda rows: ("value,name,red,green,blue\n" + rows).encode()),
        damaged(CLASSES.encode()),
        st.binary(max_size=60),
    ),
)
def test_a_damaged_class_table_is_read_or_refused(folder: Path, data: bytes) -> None:
    check(folder, "class tables", "classes.csv", data)


keys = st.sampled_from(
    ["a", "b", "../images/a", "/etc/passwd", "a.png", "a\0", "", " ", "\x1b[1m", "a" * 5000]
)


@fuzz(
    80,
    data=st.one_of(
        st.lists(st.one_of(keys, text), max_size=4).map(lambda found: "\n".join(found).encode()),
        st.binary(max_size=40),
    ),
    file=st.sampled_from(("train.txt", "test.txt")),
)
def test_a_damaged_list_is_read_or_refused(folder: Path, data: bytes, file: str) -> None:
    check(folder, "lists", file, data)
