"""Training and prediction read a picture alike: every mode, depth and orientation, upright and in its own colours."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from distill.data import FolderConfig, build_dataset, check_dataset
from distill.data.headers import parse_header
from distill.data.images import BrokenFileError, read_image, read_values
from distill.errors import UsageError
from distill.models import CheckpointMetadata, save_model
from distill.predict import PredictOptions, predict
from distill.segmenter import load_segmenter
from tests.distill.models.backbone_families import build

HEIGHT, WIDTH = 33, 40
TURNS = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What Pillow does with a picture of each EXIF orientation."""

GREY, RGB, PALETTE, GREY_ALPHA, RGB_ALPHA = 0, 2, 3, 4, 6  # colour types of PNG
CHANNELS = {GREY: 1, RGB: 3, PALETTE: 1, GREY_ALPHA: 2, RGB_ALPHA: 4}
COLOURS = np.random.default_rng(1).integers(0, 256, (256, 3)).astype(np.uint8)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def exif(orientation: int) -> bytes:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags.tobytes()


def png(
    samples: NDArray[np.integer], bits: int, colour: int, *, before: bytes = b"", after: bytes = b"",
    palette: NDArray[np.uint8] = COLOURS,
) -> bytes:  # fmt: skip
    """A PNG by hand with these samples `H×W×C`, and with chunks before and after its pixels."""
    height, width = samples.shape[:2]
    rows = samples.reshape(height, -1)
    if bits == 16:
        packed = [row.astype(">u2").tobytes() for row in rows]
    else:
        every = ((rows[..., None] >> np.arange(bits)[::-1]) & 1).reshape(height, -1).astype(np.uint8)
        packed = [np.packbits(row).tobytes() for row in every]
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    used = chunk(b"PLTE", palette[: 2**bits].tobytes()) if colour == PALETTE else b""
    pixels = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in packed)))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + before + used + pixels + after + chunk(b"IEND", b"")
    )


class File(NamedTuple):
    """A picture's bytes, and its colours as they are stored."""

    name: str
    data: bytes
    stored: NDArray[np.uint8]


def png_file(bits: int, colour: int, orientation: int) -> File:
    draw = np.random.default_rng(bits + colour)
    samples = draw.integers(0, 2**bits, (HEIGHT, WIDTH, CHANNELS[colour]))
    samples[0, 0] = 2**bits - 1
    if colour == PALETTE:
        seen = COLOURS[samples[..., 0]]
    else:
        shown = samples[..., : 3 if colour in (RGB, RGB_ALPHA) else 1]
        seen = shown >> 8 if bits == 16 else shown * (255 // (2**bits - 1))
        seen = np.broadcast_to(seen, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    before = b"" if orientation == 1 else chunk(b"eXIf", exif(orientation)[6:])
    return File(f"png-{bits}-{colour}-{orientation}", png(samples, bits, colour, before=before), seen)


def pillow_file(kind: str, mode: str, orientation: int) -> File:
    coarse = np.random.default_rng(0).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    picture = Image.fromarray(coarse).resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR)
    picture = picture.quantize(16) if mode == "P" else picture.convert(mode)
    buffer = io.BytesIO()
    options = (
        {"quality": 90, "lossless": True} if kind == "WEBP" else {"quality": 90} if kind == "JPEG" else {}
    )
    if kind != "BMP":
        options["exif"] = exif(orientation)
    picture.save(buffer, kind, **options)
    plain = io.BytesIO()
    picture.save(plain, kind, **{k: v for k, v in options.items() if k != "exif"})
    seen = np.asarray(Image.open(plain).convert("RGB"))
    return File(f"{kind}-{mode}-{orientation}", buffer.getvalue(), seen)


def all_files() -> list[File]:
    depths = [(GREY, 1), (GREY, 2), (GREY, 4), (PALETTE, 1), (PALETTE, 2), (PALETTE, 4), (PALETTE, 8)]
    depths += [(colour, bits) for colour in (GREY, RGB, GREY_ALPHA, RGB_ALPHA) for bits in (8, 16)]
    others = [("JPEG", "L"), ("JPEG", "RGB"), ("JPEG", "CMYK"), ("WEBP", "RGB"), ("WEBP", "RGBA")]
    others += [("TIFF", "L"), ("TIFF", "RGB"), ("TIFF", "P")]
    return [
        *(png_file(bits, colour, turn) for colour, bits in depths for turn in TURNS),
        *(pillow_file(kind, mode, turn) for kind, mode in others for turn in TURNS),
        pillow_file("BMP", "RGB", 1),
        pillow_file("BMP", "1", 1),
    ]


def turned(stored: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    method = TURNS[orientation]
    return stored if method is None else np.asarray(Image.fromarray(stored).transpose(method))


def folder(root: Path, **options: object) -> FolderConfig:
    return FolderConfig.model_validate({"root": root, "classes": ["a", "b", "c", "d", "e"], **options})


def write_tree(root: Path, images: dict[str, bytes], masks: dict[str, bytes]) -> Path:
    """A data set of which the first two pictures are trained on and the others are test."""
    for name, files in (("images", images), ("masks", masks)):
        (root / name).mkdir(parents=True)
        for key, data in files.items():
            (root / name / f"{key}.png").write_bytes(data)
    names = list(images)
    (root / "train.txt").write_text("\n".join(names[:2]))
    (root / "test.txt").write_text("\n".join(names[2:]))
    return root


def mask_of(values: NDArray[np.integer], **chunks: bytes) -> bytes:
    return png(values[..., None], 8, GREY, **chunks)


def blank(height: int, width: int) -> bytes:
    return mask_of(np.zeros((height, width), np.uint8))


def test_training_and_prediction_agree_on_every_mode_depth_and_orientation(tmp_path: Path) -> None:
    files = all_files()
    expected = {file.name: turned(file.stored, int(file.name.rpartition("-")[2])) for file in files}
    masks = {name: blank(*seen.shape[:2]) for name, seen in expected.items()}
    root = write_tree(tmp_path / "data", {file.name: file.data for file in files}, masks)
    report = check_dataset(folder(root))
    count = sum(not file.name.endswith("-1") for file in files)
    assert any(f"{count} pictures are turned upright" in note for note in report.notes)

    model = tmp_path / "model.safetensors"
    save_model(model, build("fcn-test_resnet"), CheckpointMetadata(tuple("abcde")))
    # one orientation of each mode and depth: the pictures of all are compared below
    options = PredictOptions(model, (str(root / "images" / "*-6.png"),), tmp_path / "out", overlay=False)
    assert predict(options) == 0
    segmenter = load_segmenter(model)
    for sample in build_dataset(folder(root), "test"):  # type: ignore[attr-defined]
        wanted = expected[sample.key]
        assert sample.image_hw3.shape == wanted.shape, sample.key
        # the two JPEG decoders round the conversion from CMYK differently
        assert np.abs(sample.image_hw3.astype(int) - wanted).max() <= (1 if "CMYK" in sample.key else 0), (
            sample.key
        )
        if sample.key.endswith("-6"):
            mask = np.asarray(Image.open(tmp_path / "out" / f"{sample.key}.mask.png"))
            np.testing.assert_array_equal(mask, segmenter.labels(sample.image_hw3), err_msg=sample.key)


@pytest.mark.parametrize("orientation", [3, 6])
@pytest.mark.parametrize("place", ["late", "zTXt", "tEXt", "XMP of PNG", "XMP of JPEG"])
def test_an_orientation_is_found_wherever_programs_write_it(
    tmp_path: Path, place: str, orientation: int
) -> None:
    file = png_file(8, RGB, 1)
    note = f"\nexif\n{len(exif(orientation))}\n{exif(orientation).hex()}\n".encode()
    name = b"Raw profile type exif\0"
    xmp = f'<rdf:Description tiff:Orientation="{orientation}"/>'.encode()
    samples = file.stored.astype(int)
    late = chunk(b"eXIf", exif(orientation)[6:]) + chunk(b"tEXt", b"Comment\0x")
    data = {
        "late": lambda: png(samples, 8, RGB, after=late),
        "zTXt": lambda: png(samples, 8, RGB, before=chunk(b"zTXt", name + b"\0" + zlib.compress(note))),
        "tEXt": lambda: png(samples, 8, RGB, before=chunk(b"tEXt", name + note)),
        "XMP of PNG": lambda: png(
            samples, 8, RGB, before=chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp)
        ),
    }
    path = tmp_path / "picture"
    if place == "XMP of JPEG":
        Image.fromarray(file.stored).save(path, "JPEG", xmp=xmp)
        stored = np.asarray(Image.open(path))
    else:
        path.write_bytes(data[place]())
        stored = file.stored
    np.testing.assert_array_equal(read_image(path), turned(stored, orientation))


def test_pictures_of_16_bits_are_scaled_by_their_full_range_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "deep.png"
    samples = np.random.default_rng(0).integers(0, 2**12, (20, 30, 3))
    path.write_bytes(png(samples * 16, 16, RGB))
    np.testing.assert_array_equal(read_image(path), samples >> 4)
    path.write_bytes(png(samples, 16, RGB))
    with pytest.raises(
        BrokenFileError, match=r"deep.png has 16 bits .* no value above 409\d, must .*by 16 if"
    ):
        read_image(path)
    root = write_tree(
        tmp_path / "data", dict.fromkeys("abcd", path.read_bytes()), dict.fromkeys("abcd", blank(20, 30))
    )
    with pytest.raises(
        UsageError, match=r"a.png has 16 bits .*3 other files have such a problem"
    ):  # of train pictures too
        check_dataset(folder(root))
    Image.fromarray(np.ones((20, 30), np.float32)).save(path, "TIFF")
    with pytest.raises(BrokenFileError, match=r"is a TIFF image with 32 bits per channel, must have 8"):
        read_image(path)


@pytest.mark.parametrize("colour", [GREY, PALETTE])
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_a_label_map_has_the_values_of_its_file(tmp_path: Path, colour: int, bits: int) -> None:
    values = np.random.default_rng(bits).integers(0, 2**bits, (13, 19))
    path = tmp_path / "mask.png"
    path.write_bytes(png(values[..., None], bits, colour))
    np.testing.assert_array_equal(read_values(path), values)
    path.write_bytes(png(values[..., None], bits, colour, before=chunk(b"eXIf", exif(6)[6:])))
    np.testing.assert_array_equal(read_values(path), np.rot90(values, -1))


def test_a_wrong_value_of_a_label_map_with_few_bits_is_the_one_in_the_file(tmp_path: Path) -> None:
    one = png(np.eye(9, dtype=int)[..., None], 1, GREY)
    root = write_tree(tmp_path, dict.fromkeys("abc", blank(9, 9)), dict.fromkeys("abc", one))
    config = folder(root, classes={0: "rest", 255: "top"}, ignored=[])
    with pytest.raises(
        UsageError,
        match=r"3 label maps hold label 1, must be .*a PNG of 1 bits, in which white is 1 and not 255",
    ):
        check_dataset(config)


def test_a_jpeg_that_is_named_png_is_no_label_map(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(buffer, "JPEG")
    masks = {"a": blank(9, 9), "b": blank(9, 9), "c": buffer.getvalue()}
    root = write_tree(tmp_path, dict.fromkeys("abc", blank(9, 9)), masks)
    with pytest.raises(
        UsageError, match=r"c.png is a JPEG image whatever its name, must be a PNG; a JPEG changes"
    ):
        check_dataset(folder(root))


def palette_mask(order: list[int], values: NDArray[np.integer]) -> bytes:
    """A label map of these values whose palette has the colours of other values, in this order."""
    return png(values[..., None], 2, PALETTE, palette=COLOURS[order])


def test_palettes_whose_order_differs_are_refused_and_unused_or_equal_colours_are_not(tmp_path: Path) -> None:
    values = np.arange(3).repeat(3).reshape(3, 3)
    same = {key: palette_mask([0, 1, 2, 3], values) for key in "ab"}
    images = dict.fromkeys("abc", blank(3, 3))
    sound = write_tree(tmp_path / "unused", images, {**same, "c": palette_mask([0, 1, 2, 9], values)})
    assert sum(map(sum, check_dataset(folder(sound)).pixels.values())) == 3 * 9
    twice = write_tree(tmp_path / "equal", images, {**same, "c": palette_mask([5, 6, 6, 7], values)})
    assert sum(map(sum, check_dataset(folder(twice)).pixels.values())) == 3 * 9
    wrong = write_tree(tmp_path / "other", images, {**same, "c": palette_mask([2, 0, 1, 3], values)})
    with pytest.raises(
        UsageError, match=r"the colour .* is value \d in .*a.png and value \d in .*c.png, must be"
    ):
        check_dataset(folder(wrong))


def on_its_side(height: int = 6, width: int = 9) -> bytes:
    return png(np.zeros((height, width, 3), int), 8, RGB, before=chunk(b"eXIf", exif(6)[6:]))


def test_a_mask_that_was_drawn_on_the_stored_pixels_is_turned_with_its_picture(tmp_path: Path) -> None:
    values = np.zeros((6, 9), int)
    values[0, :4] = 1
    images = {"a": blank(6, 9), "b": blank(6, 9), "c": on_its_side(), "d": on_its_side()}
    masks = {**dict.fromkeys("abc", mask_of(values)), "d": mask_of(np.rot90(values, -1))}
    root = write_tree(tmp_path, images, masks)
    report = check_dataset(folder(root))
    assert any(
        "1 label maps have the size of their picture before it is turned" in note for note in report.notes
    )
    test = build_dataset(folder(root), "test")
    for index in range(2):
        assert test[index].image_hw3.shape == (9, 6, 3)
        np.testing.assert_array_equal(test[index].labels_hw, np.rot90(values, -1))


def test_a_turned_picture_whose_size_tells_nothing_is_refused_beside_masks_that_were_not_turned(
    tmp_path: Path,
) -> None:
    images = {"a": blank(6, 9), "b": blank(6, 9), "c": on_its_side(), "d": on_its_side(9, 9)}
    root = write_tree(tmp_path, images, {**dict.fromkeys("abc", blank(6, 9)), "d": blank(9, 9)})
    with pytest.raises(
        UsageError, match=r"d.png is turned by its EXIF orientation 6, .* 1 other label maps .*c.png"
    ):
        check_dataset(folder(root))


def test_a_mask_of_another_size_is_refused_with_the_size_of_the_upright_picture(tmp_path: Path) -> None:
    images = {"a": blank(6, 9), "b": blank(6, 9), "c": on_its_side()}
    root = write_tree(tmp_path, images, {**dict.fromkeys("ab", blank(6, 9)), "c": blank(6, 8)})
    with pytest.raises(
        UsageError, match=r"is 9×6 when turned by its EXIF orientation 6 and .* is 6×8, must be"
    ):
        check_dataset(folder(root))


def photo(**options: object) -> bytes:
    coarse = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    picture = Image.fromarray(coarse).resize((320, 240), Image.Resampling.BICUBIC)
    picture.save(buffer, "JPEG", quality=90, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_is_whole_if_its_end_is_anywhere_and_cut_without_it(progressive: bool) -> None:
    data = photo(progressive=progressive)
    for trailer in (b"", bytes(100), b"\0\0SEFT" * 300, data):  # padding, a phone's notes, a second picture
        assert parse_header(io.BytesIO(data + trailer)).complete
    for cut in (1, 2, 100, len(data) // 2):
        assert not parse_header(io.BytesIO(data[:-cut])).complete
        assert not parse_header(io.BytesIO(data[:-cut] + bytes(100))).complete


def test_cut_and_zeroed_jpegs_are_refused_before_a_sweep(tmp_path: Path) -> None:
    data = photo()
    zeroed = data[: len(data) // 2] + bytes(2000) + data[len(data) // 2 + 2000 :]
    images = {"a": data, "b": data[:-500], "c": data, "d": zeroed}
    root = write_tree(tmp_path, images, dict.fromkeys("abcd", blank(240, 320)))
    with pytest.raises(UsageError) as refused:
        check_dataset(folder(root))
    assert "b.png ends too early, must end as a JPEG image does" in str(refused.value)
    assert "d.png is damaged: its bytes from" in str(refused.value)


def test_a_jpeg_of_one_colour_holds_many_zeros_and_is_sound(tmp_path: Path) -> None:
    path = tmp_path / "blank.jpg"
    Image.new("RGB", (2000, 2000), (90, 90, 90)).save(path, optimize=True)
    assert bytes(512) in path.read_bytes()
    assert (read_image(path) == 90).all()


@pytest.mark.parametrize("reader", [read_image, read_values])
def test_a_file_of_too_many_pixels_is_refused_with_that_reason(tmp_path: Path, reader: object) -> None:
    path = tmp_path / "map.png"
    data = bytearray(blank(1, 1))
    data[16:24] = struct.pack(">II", 13_400, 13_400)
    path.write_bytes(data)
    with pytest.raises(
        BrokenFileError, match=r"has 13400×13400 pixels .*, must have from 1 to 178956970 in all .*tiles"
    ):
        reader(path)  # type: ignore[operator]
