"""The exported graph: bytes in, classes out, of any size that the model takes, equal to the model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from distill.errors import UsageError
from distill.export.graph import write_graph
from distill.models import CheckpointMetadata, save_model
from distill.recipe import SlidingWindow
from distill.segmenter import Segmenter, load_segmenter
from tests.distill.models.backbone_families import K, build

METADATA = CheckpointMetadata(
    tuple("abcde"),
    mean=(0.4, 0.5, 0.6),
    palette=tuple((k, 2 * k, 255 - k) for k in range(K)),
    window={"size": (64, 64), "stride": (32, 32)},
    notes={"crop": [64, 64]},
)


def picture(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)


def exported(name: str, folder: Path, **options: object) -> tuple[Segmenter, Segmenter, str]:
    """The model by torch and by onnxruntime, and the sizes that the graph takes."""
    model = build(name, **options).eval()
    save_model(folder / "model.safetensors", model, METADATA)
    graph = write_graph(folder / "model.onnx", model, METADATA)
    assert all(check.logits <= 1e-4 * max(1, check.scale) and check.pixels < 1e-3 for check in graph.checks)
    assert len({check.size[1:] for check in graph.checks}) == (1 if "×" in graph.sizes else 2)
    return load_segmenter(folder / "model.safetensors"), load_segmenter(folder / "model.onnx"), graph.sizes


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["segformer-test_resnet", pytest.param("segformer-mit_b0", marks=pytest.mark.long)]
)
def test_a_graph_gives_the_models_classes_at_sizes_it_was_not_traced_with(tmp_path: Path, name: str) -> None:
    by_torch, by_onnx, sizes = exported(name, tmp_path)
    assert sizes == "any"
    for height, width in ((33, 70), (150, 41)):
        same = by_torch.labels(picture(height, width)) == by_onnx.labels(picture(height, width))
        assert same.mean() > 0.999
    window = SlidingWindow(size=(40, 40), stride=(25, 25))
    same = by_torch.labels(picture(90, 75), window) == by_onnx.labels(picture(90, 75), window)
    assert same.mean() > 0.999
    assert (by_onnx.classes, by_onnx.palette) == (METADATA.classes, METADATA.palette)
    assert by_onnx.window == by_torch.window == SlidingWindow(size=(64, 64), stride=(32, 32))
    batch = np.stack([picture(40, 56), picture(41, 56)[:40], picture(42, 56)[:40]])
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    classes, logits = session.run(["classes", "logits"], {"image": batch})
    assert (classes.shape, classes.dtype, logits.shape) == ((3, 40, 56), np.uint8, (3, K, 40, 56))
    assert (classes[0] == by_torch.labels(picture(40, 56))).mean() > 0.999


@pytest.mark.long  # torch.export takes a minute to find that the sizes cannot vary
def test_a_head_that_bakes_sizes_in_makes_a_graph_of_one_size_that_says_so(tmp_path: Path) -> None:
    by_torch, by_onnx, sizes = exported("pspnet-test_resnet", tmp_path, norm="sync")
    assert sizes == "64×64"
    assert (by_torch.labels(picture(64, 64)) == by_onnx.labels(picture(64, 64))).mean() > 0.999
    with pytest.raises(UsageError, match="takes pictures of 64×64 pixels, not of 100×64"):
        by_onnx.labels(picture(100, 64))


@pytest.mark.slow
def test_a_model_that_onnx_cannot_say_is_refused_with_the_reason_and_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=r"'segformer-test_vit_relpos' cannot be written as ONNX: .*--no-onnx"
    ):
        write_graph(tmp_path / "model.onnx", build("segformer-test_vit_relpos").eval(), METADATA)
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_graph_of_ours_is_refused(tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"no graph")
    with pytest.raises(UsageError, match="cannot be read by onnxruntime"):
        load_segmenter(tmp_path / "broken.onnx")
    with pytest.raises(UsageError, match="is not a file"):
        load_segmenter(tmp_path / "nowhere.onnx")
    value = onnx.helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, [1])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["image"], ["out"])], "g", [value],
                                   [onnx.helper.make_tensor_value_info("out", onnx.TensorProto.FLOAT, [1])])  # fmt: skip
    opset = [onnx.helper.make_opsetid("", 18)]
    onnx.save(onnx.helper.make_model(graph, ir_version=8, opset_imports=opset), tmp_path / "foreign.onnx")
    with pytest.raises(UsageError, match=r"was not written by python -m distill\.export"):
        load_segmenter(tmp_path / "foreign.onnx")
