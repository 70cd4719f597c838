"""Pictures of people's own: any size, any place, broken ones too."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from distill.data import FolderConfig
from distill.errors import UsageError
from distill.evaluation import predicted_classes
from distill.models import CheckpointMetadata, SegmentationModel, load_model, save_model
from distill.predict import PredictOptions, predict
from distill.recipe import SlidingWindow
from distill.segmenter import load_segmenter
from tests.distill.data.buckets import at, upload
from tests.distill.models.backbone_families import K, build

PALETTE = tuple((40 * k, 255 - 40 * k, 7) for k in range(K))
WINDOW = SlidingWindow(size=(48, 64), stride=(32, 42))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "student.safetensors"
    save_model(path, undecided(), CheckpointMetadata(tuple("abcde"), palette=PALETTE))
    return path


def undecided() -> SegmentationModel:
    """A model that gives each class its share of the pixels: one with random weights has a favourite."""
    network = build("fcn-test_resnet")
    colours = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    network(torch.nn.functional.interpolate(colours, size=(64, 64), mode="bilinear"))
    bias = [p for name, p in network.named_parameters() if name.endswith("bias") and len(p) == K][-1]
    with torch.no_grad():
        images = torch.nn.functional.interpolate(colours, size=(64, 64), mode="bilinear")
        bias -= network.eval()(images).logits.mean((0, 2, 3))
    return network


def write(path: Path, height: int = 40, width: int = 56, seed: int = 0, **options: object) -> np.ndarray:
    colours = np.random.default_rng(seed).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    pixels = np.asarray(Image.fromarray(colours).resize((width, height), Image.Resampling.BILINEAR))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)  # type: ignore[arg-type]
    return pixels


def run(model: Path, output: Path, *pictures: Path | str, **options: object) -> int:
    return predict(PredictOptions(model, tuple(map(str, pictures)), output, **options))  # type: ignore[arg-type]


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(("height", "width"), [(33, 97), (64, 64), (131, 20)])
@pytest.mark.parametrize("window", [None, (48, 64)])
def test_a_mask_has_the_size_of_its_picture_and_the_models_classes(
    model: Path, tmp_path: Path, height: int, width: int, window: tuple[int, int] | None
) -> None:
    pixels = write(tmp_path / "in" / "street.png", height, width)
    assert run(model, tmp_path / "out", tmp_path / "in", window=window) == 0
    assert files(tmp_path / "out") == {"street.mask.png", "street.overlay.jpg", "classes.csv"}
    mask = Image.open(tmp_path / "out" / "street.mask.png")
    network, metadata = load_model(model)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (metadata.mean, metadata.std))
    images = ((torch.tensor(pixels).permute(2, 0, 1) / 255 - mean) / std)[None]
    with torch.no_grad():
        expected = predicted_classes(
            lambda pieces: network.eval()(pieces).logits, images, WINDOW if window else None
        )
    found = np.asarray(mask)
    assert found.shape == (height, width)
    assert (found == expected[0].numpy()).mean() > 0.999
    assert len(np.unique(found)) > 1
    assert mask.getpalette()[: 3 * K] == [channel for colour in PALETTE for channel in colour]  # type: ignore[index]
    overlay = np.asarray(Image.open(tmp_path / "out" / "street.overlay.jpg"))
    assert overlay.shape == (height, width, 3)


def test_pictures_of_one_name_keep_a_mask_each(model: Path, tmp_path: Path) -> None:
    names = ("a/x.png", "b/x.png", "b/x.jpg", "b/c/x.png", "X.png")
    sizes = {name: (32 + 8 * number, 40) for number, name in enumerate(names)}
    for name, (height, width) in sizes.items():
        write(tmp_path / name, height, width)
    assert (
        run(model, tmp_path / "out", tmp_path / "a", tmp_path / "b", tmp_path / "X.png", overlay=False) == 0
    )
    masks = {"a/x": "a/x.png", "b/x.png": "b/x.png", "b/x.jpg": "b/x.jpg", "b/c/x": "b/c/x.png", "X": "X.png"}
    assert files(tmp_path / "out") == {f"{name}.mask.png" for name in masks} | {"classes.csv"}
    for name, picture in masks.items():
        assert Image.open(tmp_path / "out" / f"{name}.mask.png").size == sizes[picture][::-1]


def test_a_broken_picture_is_named_and_skipped_and_none_at_all_is_an_error(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "in" / "good.jpg")
    whole = (tmp_path / "in" / "good.jpg").read_bytes()
    (tmp_path / "in" / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "in" / "text.png").write_text("no picture")
    Image.fromarray(np.full((40, 40), 4095, np.uint16)).save(tmp_path / "in" / "deep.png")
    assert run(model, tmp_path / "out", tmp_path / "in") == 0
    told = capsys.readouterr()
    assert "1 pictures in" in told.out
    assert "3 skipped that could not be read" in told.out
    for name, why in (
        ("cut.jpg", "its header is cut"),
        ("text.png", "is not a PNG or JPEG image"),
        ("deep.png", "no value above 4095"),
    ):
        assert any(name in line and why in line for line in told.err.splitlines()), told.err
    assert files(tmp_path / "out") == {"good.mask.png", "good.overlay.jpg", "classes.csv"}
    assert run(model, tmp_path / "none", tmp_path / "in" / "cut.jpg") == 2
    assert "none of 1 pictures could be read" in capsys.readouterr().err


def test_pictures_of_a_bucket_are_predicted_as_those_of_a_folder(
    model: Path,
    tmp_path: Path,
    s3_server: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    write(tmp_path / "in/a/street.jpg", seed=1)
    write(tmp_path / "in/b/street.png", seed=2)
    (tmp_path / "in/b/note.jpg").write_text("no picture")
    (tmp_path / "in/b/list.txt").write_text("street")
    assert run(model, tmp_path / "near", tmp_path / "in") == 0
    assert run(model, tmp_path / "far", upload(s3_server, tmp_path / "in")) == 0
    assert "skipped: s3://runs/data/b/note.jpg is not a PNG or JPEG image" in capsys.readouterr().err
    assert files(tmp_path / "far") == files(tmp_path / "near")
    for name in files(tmp_path / "near"):
        assert (tmp_path / "far" / name).read_bytes() == (tmp_path / "near" / name).read_bytes()
    assert run(model, tmp_path / "one", at(s3_server, "data/a/street.jpg")) == 0
    assert "street.mask.png" in files(tmp_path / "one")
    with pytest.raises(UsageError, match="'s3://runs/nothing' holds no pictures"):
        run(model, tmp_path / "none", at(s3_server, "nothing"))


def test_a_picture_is_turned_as_its_camera_noted_and_grey_and_clear_ones_are_read(
    model: Path, tmp_path: Path
) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    pixels = write(tmp_path / "in" / "turned.png", 40, 60, exif=turned)
    Image.fromarray(pixels).convert("L").save(tmp_path / "in" / "grey.png")
    Image.fromarray(pixels).convert("RGBA").save(tmp_path / "in" / "clear.webp", lossless=True)
    assert run(model, tmp_path / "out", tmp_path / "in") == 0
    sizes = {n: Image.open(tmp_path / "out" / f"{n}.mask.png").size for n in ("turned", "grey", "clear")}
    assert sizes == {"turned": (40, 60), "grey": (60, 40), "clear": (60, 40)}
    upright = load_segmenter(model).labels(np.ascontiguousarray(np.rot90(pixels, -1)))
    assert (np.asarray(Image.open(tmp_path / "out" / "turned.mask.png")) == upright).all()


def test_no_picture_is_ever_written_over_and_earlier_masks_are_no_pictures(
    model: Path, tmp_path: Path
) -> None:
    write(tmp_path / "street.png")
    write(tmp_path / "street.mask.png")
    before = {name: (tmp_path / name).read_bytes() for name in files(tmp_path)}
    with pytest.raises(
        UsageError, match=r"street\.mask\.png is one of the pictures, must not be written over"
    ):
        run(model, tmp_path, tmp_path / "street.png", tmp_path / "street.mask.png")
    assert {name: (tmp_path / name).read_bytes() for name in files(tmp_path)} == before
    (tmp_path / "street.mask.png").unlink()
    for _ in range(2):
        assert run(model, tmp_path / "out", tmp_path) == 0
        assert files(tmp_path / "out") == {"street.mask.png", "street.overlay.jpg", "classes.csv"}


def test_a_backbone_that_wants_even_sides_takes_any_picture(tmp_path: Path) -> None:
    save_model(
        tmp_path / "m.safetensors", build("segformer-hrnet_w18_small"), CheckpointMetadata(tuple("abcde"))
    )
    write(tmp_path / "street.png", 45, 71)
    assert run(tmp_path / "m.safetensors", tmp_path / "out", tmp_path / "street.png") == 0
    assert Image.open(tmp_path / "out" / "street.mask.png").size == (71, 45)


def test_a_model_scored_in_windows_predicts_in_them_unless_asked_for_the_whole(tmp_path: Path) -> None:
    network = undecided()
    window = {"size": WINDOW.size, "stride": WINDOW.stride}
    save_model(tmp_path / "m.safetensors", network, CheckpointMetadata(tuple("abcde"), window=window))
    pixels = write(tmp_path / "street.png", 90, 120)
    segmenter = load_segmenter(tmp_path / "m.safetensors")
    for whole, wanted in ((False, WINDOW), (True, None)):
        assert run(tmp_path / "m.safetensors", tmp_path / "out", tmp_path / "street.png", whole=whole) == 0
        found = np.asarray(Image.open(tmp_path / "out" / "street.mask.png"))
        assert (found == segmenter.labels(pixels, wanted)).all()
    assert (segmenter.labels(pixels, WINDOW) != segmenter.labels(pixels)).any()


def test_masks_and_their_class_table_are_a_data_set_of_ones_own(model: Path, tmp_path: Path) -> None:
    write(tmp_path / "in" / "street.png")
    run(model, tmp_path / "out", str(tmp_path / "in" / "*.png"))
    config = FolderConfig.model_validate(
        {"kind": "folder", "root": tmp_path / "out", "classes": "classes.csv"}
    )
    assert [(label.value, label.name, label.colour) for label in config.classes] == list(
        zip(range(K), "abcde", PALETTE, strict=True)
    )


@pytest.mark.parametrize(
    ("pictures", "options", "message"),
    [
        ((), {}, "no picture is given"),
        (("nowhere.png",), {}, r"picture 'nowhere\.png' does not exist"),
        (("*.gif",), {}, "holds no pictures"),
        (("street.png",), {"whole": True, "window": (64, 64)}, "--whole and --window exclude each other"),
        (("street.png",), {"window": (8, 64)}, "--window is 8 64, each side must be at least 32"),
        (("street.png",), {"model": Path("nothing.safetensors")}, "is not a file"),
    ],
)
def test_a_wrong_call_is_refused_before_anything_is_written(
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    pictures: tuple[str, ...],
    options: dict[str, object],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "street.png")
    with pytest.raises(UsageError, match=message):
        run(Path(str(options.pop("model", model))), Path("out"), *pictures, **options)
    assert files(tmp_path) == {"street.png"}
