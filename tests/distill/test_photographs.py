"""Real photographs, CamVid's, all the way: read in every form that people have them in, predicted, exported.

They are looked for in `../shared/camvid` beside the checkout, or where CAMVID_TAR says.
"""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.onnx_photographs import compare
from distill.data import CamVidConfig, build_dataset
from distill.export.__main__ import GRAPH, WEIGHTS, ExportOptions, export
from distill.models import CheckpointMetadata, build_model, save_model
from distill.normalisation import normalise
from distill.picture_batches import picture_batches
from distill.predict import PredictOptions, predict
from distill.segmenter import load_segmenter

ARCHIVE = Path(os.environ.get("CAMVID_TAR", Path(__file__).parents[3] / "shared" / "camvid" / "camvid.tar"))
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not ARCHIVE.is_file(), reason=f"no photographs: {ARCHIVE} does not exist"),
]
EACH = 3


@pytest.fixture(scope="module")
def camvid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first photographs of each split, in CamVid's layout."""
    root = tmp_path_factory.mktemp("camvid")
    kept: dict[str, list[str]] = {}
    with tarfile.open(ARCHIVE) as archive:
        for member in sorted(archive.getmembers(), key=lambda member: member.name):
            folder, _, name = member.name.partition("/")
            if len(kept.setdefault(folder, [])) < EACH and (file := archive.extractfile(member)) is not None:
                kept[folder].append(name)
                target = root / folder / Path(name).with_suffix(".png")
                target.parent.mkdir(exist_ok=True)
                Image.open(io.BytesIO(file.read())).save(target)
    return root


@pytest.fixture(scope="module")
def model(camvid: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student that predicts several classes.

    Its classifier is fitted to a random network's features by least squares: steps of training would amplify how a processor rounds, and
    another processor would have another student.
    """
    torch.manual_seed(0)
    data = build_dataset(CamVidConfig(root=str(camvid)), "train")
    classes = len(data.classes)
    [(_, images_bhw3, labels)] = picture_batches(data, range(EACH), EACH, 1, pinned=False)
    images = normalise(images_bhw3.movedim(-1, 1))
    network = build_model("fcn-test_efficientnet", classes, head_channels=32, output_stride=32)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # the running statistics are those of these photographs
    found: list[torch.Tensor] = []
    network.head.classifier.register_forward_hook(lambda module, given, result: found.append(given[0]))
    with torch.no_grad():
        network(images)
        network.eval()(images)
        features = found[-1].movedim(1, -1).flatten(0, -2).double()
        small = (
            torch.nn.functional.interpolate(labels[:, None].float(), found[-1].shape[-2:]).flatten().long()
        )
        known = small < classes
        solution = torch.linalg.lstsq(
            torch.cat([features, torch.ones(len(features), 1)], 1)[known],
            torch.nn.functional.one_hot(small[known], classes).double(),
        ).solution
        network.head.classifier.weight.copy_(solution[:-1].T[..., None, None])
        network.head.classifier.bias.copy_(solution[-1])
    path = tmp_path_factory.mktemp("model") / WEIGHTS
    save_model(path, network, CheckpointMetadata(tuple(data.classes)))
    return path


def test_a_photograph_has_one_mask_in_whatever_form_a_person_brings_it(
    camvid: Path, model: Path, tmp_path: Path
) -> None:
    photograph = Image.open(next((camvid / "test").glob("*.png")))
    pixels = np.asarray(photograph)
    forms = tmp_path / "forms"
    forms.mkdir()
    photograph.save(forms / "plain.png")
    turned = Image.Exif()
    turned[0x0112] = 6  # stored lying on its side: a viewer turns it clockwise
    photograph.transpose(Image.Transpose.ROTATE_90).save(forms / "turned.png", exif=turned)
    import cv2

    cv2.imwrite(str(forms / "deep.png"), pixels[..., ::-1].astype(np.uint16) * 257)
    photograph.convert("CMYK").save(forms / "printed.jpg", quality=95)
    photograph.crop((0, 0, 333, 217)).save(forms / "odd.png")
    assert predict(PredictOptions(model, (str(forms),), tmp_path / "out", overlay=False)) == 0
    masks = {
        path.name.split(".")[0]: np.asarray(Image.open(path)) for path in (tmp_path / "out").glob("*.png")
    }
    assert len(np.unique(masks["plain"])) > 2
    assert np.array_equal(masks["turned"], masks["plain"])
    assert np.array_equal(masks["deep"], masks["plain"])
    assert masks["odd"].shape == (217, 333)
    assert masks["printed"].shape == masks["plain"].shape
    assert (masks["printed"] == masks["plain"]).mean() > 0.8  # CMYK and JPEG change colours a little


def test_an_exported_student_scores_the_same_in_onnxruntime_on_photographs(
    camvid: Path, model: Path, tmp_path: Path
) -> None:
    pytest.importorskip("onnxruntime", reason="the extra `onnx` is not installed")
    export(ExportOptions(str(model), output=tmp_path))
    models = {"torch": load_segmenter(tmp_path / WEIGHTS), "onnxruntime": load_segmenter(tmp_path / GRAPH)}
    found = compare(models, build_dataset(CamVidConfig(root=str(camvid)), "test"), EACH)
    assert found["pictures"] == EACH
    assert found["miou"]["torch"] > 0.05
    assert found["miou"]["onnxruntime"] == pytest.approx(found["miou"]["torch"], abs=1e-3)
    assert found["pixels_of_another_class"] < 1e-3
