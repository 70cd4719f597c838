"""Strides are a teacher's own, whatever the sizes of the pictures are and whichever comes first."""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor, nn

from distill.models.teachers import read_teacher, representative_sizes
from distill.models.teachers.probe import probe
from distill.models.teachers.teacher import TeacherDescription
from distill.teacher_source import TeacherSource
from tests.distill.models.foreign_models import Plain, dpt, export, exported_by_us, segformer, upernet

SOURCE: TypeAdapter[Any] = TypeAdapter(TeacherSource)
CLASSES = ("sky", "road", "car", "person")
REAL_SIZES = [
    (180, 240), (360, 480), (720, 960), (375, 500), (333, 500), (500, 375), (366, 500), (513, 513), (512, 683), (281, 500),
    (427, 640),
]  # fmt: skip
"""Of CamVid, Pascal VOC, ADE20K and COCO."""


def saved(kind: str, folder: Path) -> tuple[str, dict[str, Any]]:
    """A source of each foreign kind, and the name of its model."""
    makers: dict[str, Callable[[], nn.Module]] = {"segformer": segformer, "upernet": upernet, "dpt": dpt}
    if kind in makers:
        pytest.importorskip("transformers", reason="the extra `hub` is not installed")
        makers[kind]().save_pretrained(folder)  # type: ignore[operator]
        return kind, {"kind": "transformers", "path": str(folder)}
    if kind == "run":
        return "segformer-test_resnet", {"kind": "run", "path": str(exported_by_us(folder, CLASSES))}
    if kind in ("torchscript", "export"):
        if kind == "export":
            export(Plain(), folder / "p.pt", multiple=1)
        else:
            torch.jit.save(torch.jit.script(Plain().eval()), folder / "p.pt")
        taps = {"stages": ["fine", "fine", "coarse", "coarse"], "logits": "logits"}
        return kind, {
            "kind": kind,
            "path": str(folder / "p.pt"),
            "family": "cnn",
            "classes": 4,
            "taps": taps,
        }
    import torchvision

    model = torchvision.models.segmentation.fcn_resnet50(weights=None, weights_backbone=None, num_classes=4)
    torch.save(model.state_dict(), folder / "w.pth")
    return "fcn-resnet50", {"kind": "torchvision", "path": str(folder / "w.pth")}


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", ["segformer", "upernet", "dpt", "torchscript", "export", "torchvision", "run"]
)
def test_every_kind_has_the_same_strides_at_eleven_real_sizes(kind: str, tmp_path: Path) -> None:
    name, source = saved(kind, tmp_path)
    sizes = REAL_SIZES[:1] if kind == "torchvision" else REAL_SIZES  # a slow network of known strides
    teacher = read_teacher(
        name, SOURCE.validate_python(source), classes=CLASSES, class_map=None, sizes=sizes
    ).model
    program = (4, 4, 8, 8)
    expected = {"torchscript": program, "export": program, "torchvision": (4, 8, 8, 8)}.get(
        kind, (4, 8, 16, 32)
    )
    assert teacher.info.strides == expected
    for size in sizes if kind != "torchvision" else []:
        again = probe(teacher.network, teacher.description, 4, [size])
        assert (again.strides, again.logits_stride) == (teacher.info.strides, teacher.info.logits_stride)


class Fixed(nn.Module):
    """A network that takes images of one size only, as many exported programs do."""

    def __init__(self, strides: tuple[int, ...], size: tuple[int, int]) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(nn.Conv2d(3, 4, 3, stride, padding=1) for stride in strides)
        self.size = size

    def forward(self, images: Tensor) -> Any:
        from distill.models.output import Output

        if tuple(images.shape[-2:]) != self.size:
            raise ValueError("another size")
        a, b, c, d = (convolution(images) for convolution in self.convolutions)
        return Output((a, b, c, d), d, a)


@pytest.mark.parametrize("size", REAL_SIZES)
def test_a_network_of_one_size_has_the_strides_that_halve_its_images(size: tuple[int, int]) -> None:
    description = TeacherDescription("t", "export", {}, "cnn", CLASSES, (0.0,) * 3, (1.0,) * 3)  # type: ignore[arg-type]
    info = probe(Fixed((4, 8, 16, 32), size), description, 4, [size])
    assert (info.strides, info.logits_stride) == ((4, 8, 16, 32), 4)


def test_the_sizes_that_are_tried_do_not_depend_on_the_order_of_the_pictures() -> None:
    chosen = representative_sizes(REAL_SIZES)
    assert {(180, 240), (720, 960)} <= set(chosen)
    assert any(height % 2 for height, _ in chosen)
    assert any(width % 2 for _, width in chosen)
    assert all(
        representative_sizes(order) == representative_sizes(REAL_SIZES[:4])
        for order in permutations(REAL_SIZES[:4])
    )
