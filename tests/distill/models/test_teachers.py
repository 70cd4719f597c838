"""Teachers from elsewhere say what their own libraries say, and what does not fit is refused."""

from __future__ import annotations

import hashlib
import json
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor, nn
from torch.nn.functional import interpolate

from distill.data import ScenesConfig, build_dataset
from distill.errors import UsageError
from distill.evaluation import evaluate
from distill.models import CheckpointMetadata, build_model, save_model
from distill.models.costs import count_module, measure_latency
from distill.models.heads import HeadInputs
from distill.models.heads.upernet import UPerNetHead
from distill.models.teachers import ReadTeacher, load_teacher, read_teacher, save_teacher
from distill.teacher_source import TeacherSource
from tests.distill.models.foreign_models import Plain, Silent, dpt, export, segformer, upernet

CLASSES = ("sky", "road", "car", "person")
SOURCE: TypeAdapter[Any] = TypeAdapter(TeacherSource)


def read(source: dict[str, Any] | str, name: str = "theirs", **options: Any) -> ReadTeacher:
    options = {"classes": CLASSES, "class_map": None, "sizes": [(64, 64)], **options}
    return read_teacher(name, SOURCE.validate_python(source), **options)


def images(height: int = 64, width: int = 64) -> Tensor:
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="session")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Callable[[], nn.Module]], Path]:
    """The folder of a model of transformers, saved once."""
    pytest.importorskip("transformers", reason="the extra `hub` is not installed")
    root = tmp_path_factory.mktemp("hub")

    def folder(make: Callable[[], nn.Module]) -> Path:
        path = root / make.__name__
        if not path.exists():
            make().save_pretrained(path)  # type: ignore[operator]
        return path

    return folder


def hash_of(program: bytes | None) -> str | None:
    return None if program is None else hashlib.sha256(program).hexdigest()


def transformers_source(folder: Path) -> dict[str, Any]:
    return {"kind": "transformers", "path": str(folder)}


def test_a_segformer_of_transformers_becomes_ours_with_the_same_outputs(hub: Any) -> None:
    theirs, teacher = segformer(), read(transformers_source(hub(segformer))).model
    assert teacher.description.kind == "model"
    assert teacher.description.network["name"] == "segformer-mit_b0"
    with torch.no_grad():
        torch.testing.assert_close(
            teacher(images(65, 97)).logits, theirs(images(65, 97)).logits, atol=1e-4, rtol=0
        )


@pytest.mark.parametrize(("make", "corners"), [(upernet, False), (dpt, True)])
def test_a_model_of_transformers_answers_as_it_does_alone_but_for_the_last_resizing(
    hub: Any, make: Callable[[], nn.Module], corners: bool
) -> None:
    teacher = read(transformers_source(hub(make))).model
    with torch.no_grad():
        theirs, output = make()(images()).logits, teacher(images())
    size = theirs.shape[-2:]
    ours = interpolate(output.logits, size, mode="bilinear", align_corners=corners)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    assert teacher.info.strides == (4, 8, 16, 32)
    assert tuple(stage.shape[1] for stage in output.stages) == teacher.info.channels


def test_our_upernet_head_computes_what_theirs_does() -> None:
    pytest.importorskip("transformers", reason="the extra `hub` is not installed")
    theirs = upernet().decode_head
    ours = UPerNetHead(HeadInputs((8, 16, 32, 64), (4, 8, 16, 32), 4, 8, 0.0)).eval()  # type: ignore[arg-type]
    names = {
        r"^psp_modules\.(\d)\.1\.": r"pyramid.means.\1.", r"^bottleneck\.": "top.", r"^lateral_convs\.": "lateral.",
        r"^fpn_convs\.": "smooth.", r"^fpn_bottleneck\.": "fuse.", r"\.conv\.": ".0.", r"\.batch_norm\.": ".1.",
    }  # fmt: skip
    state = {}
    for key, tensor in theirs.state_dict().items():  # type: ignore[union-attr,operator]
        for pattern, name in names.items():
            key = re.sub(pattern, name, key)
        state[key] = tensor
    ours.load_state_dict(state)
    stages = tuple(torch.randn(2, 8 * 2**i, -(-20 // 2**i), -(-28 // 2**i)) for i in range(4))
    with torch.no_grad():
        torch.testing.assert_close(ours(stages)[1], theirs(stages))  # type: ignore[operator]


@pytest.mark.parametrize("make", [segformer, upernet, dpt])
def test_a_kept_teacher_needs_its_source_no_more(
    hub: Any, make: Callable[[], nn.Module], tmp_path: Path
) -> None:
    found = read(transformers_source(hub(make)))
    save_teacher(tmp_path / "t.safetensors", found.model, found.program)
    loaded = load_teacher(tmp_path / "t.safetensors")
    with torch.no_grad():
        torch.testing.assert_close(loaded(images()).logits, found.model(images()).logits)
    assert loaded.info == found.model.info
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


@pytest.mark.parametrize("name", ["deeplabv3-resnet50", "fcn-resnet50"])
def test_a_checkpoint_of_torchvision_gives_the_same_outputs(name: str, tmp_path: Path) -> None:
    import torchvision

    theirs = getattr(torchvision.models.segmentation, name.replace("-", "_"))(
        weights=None, weights_backbone=None, num_classes=4, aux_loss=True
    ).eval()
    torch.save(theirs.state_dict(), tmp_path / "weights.pth")
    teacher = read({"kind": "torchvision", "path": str(tmp_path / "weights.pth")}, name).model
    with torch.no_grad():
        output, wanted = teacher(images()).logits, theirs(images())["out"]
    torch.testing.assert_close(interpolate(output, (64, 64), mode="bilinear"), wanted, atol=1e-4, rtol=1e-4)


NAMED = {"stages": ["fine", "fine", "coarse", "coarse"], "logits": "logits"}


def program_source(kind: str, path: Path, taps: dict[str, Any] = NAMED) -> dict[str, Any]:
    return {"kind": kind, "path": str(path), "family": "cnn", "classes": list(CLASSES), "taps": taps}


def test_a_torchscript_file_is_tapped_by_its_outputs(tmp_path: Path) -> None:
    plain = Plain().eval()
    torch.jit.save(torch.jit.script(plain), tmp_path / "program.pt")
    _answers_like(plain, program_source("torchscript", tmp_path / "program.pt"), tmp_path)


def test_a_torch_export_file_is_tapped_by_its_outputs(tmp_path: Path) -> None:
    plain = Plain().eval()
    _answers_like(plain, program_source("export", export(plain, tmp_path / "program.pt2")), tmp_path)


def test_a_torch_export_file_is_tapped_by_the_modules_inside_it(tmp_path: Path) -> None:
    silent = Silent().eval()
    taps = {"stages": ["stem", "stem", "down", "down"], "fused": "down", "logits": 0}
    _answers_like(silent, program_source("export", export(silent, tmp_path / "program.pt2"), taps), tmp_path)


def _answers_like(plain: Plain, source: dict[str, Any], folder: Path) -> None:
    """Read, kept and loaded again, a program gives the maps of the network that it was made of."""
    found = read(source, sizes=[(64, 64), (32, 48)])
    save_teacher(folder / "t.safetensors", found.model, found.program)
    with torch.no_grad():
        wanted = Plain.forward(plain, images(40, 56))
    for teacher in (found.model, load_teacher(folder / "t.safetensors", hash_of(found.program)).eval()):
        output = teacher(images(40, 56))
        torch.testing.assert_close(output.logits, wanted["logits"])
        torch.testing.assert_close(output.stages[0], wanted["fine"])
        torch.testing.assert_close(output.fused, wanted["coarse"])
        assert (teacher.info.strides, teacher.info.channels) == ((4, 4, 8, 8), (6, 6, 8, 8))


def test_a_kept_program_is_evaluated_counted_and_timed_like_a_model(tmp_path: Path) -> None:
    source = program_source("export", export(Plain().eval(), tmp_path / "program.pt2"))
    found = read(source)
    save_teacher(tmp_path / "t.safetensors", found.model, found.program)
    kept = load_teacher(tmp_path / "t.safetensors", hash_of(found.program))
    teacher = kept.to("cpu").eval().requires_grad_(False)
    test = build_dataset(ScenesConfig(size=(32, 32), classes=4, test=3), "test")
    assert evaluate(teacher, test, batch_size=2).tp.shape == (3, 4)
    cost = count_module(teacher, 32, 32, torch.device("cpu"))
    assert cost.params == sum(p.numel() for p in Plain().parameters())
    assert cost.flops_forward == 2 * (64 * 6 * 3 * 16 + 16 * 8 * 6 * 9 + 16 * 4 * 8)
    assert measure_latency(teacher, 32, 32, repeats=1, warmup=0).median_ms > 0


@pytest.mark.parametrize("kind", ["hub", "program"])
def test_a_teacher_kept_in_one_run_can_be_taken_into_another(hub: Any, kind: str, tmp_path: Path) -> None:
    """With a map of its own: what it answered there does not decide what it answers here."""
    if kind == "hub":
        first = read(transformers_source(hub(segformer)))
    else:
        first = read(program_source("export", export(Plain().eval(), tmp_path / "program.pt2")))
    save_teacher(tmp_path / "t.safetensors", first.model, first.program)
    program = hash_of(first.program)
    again = read(
        str(tmp_path / "t.safetensors"),
        classes=("a", "b"),
        class_map={"a": (0, 1), "b": (3,)},
        sha256=program,
    )
    with torch.no_grad():
        torch.testing.assert_close(again.model(images()).logits[:, 1], first.model(images()).logits[:, 3])
    save_teacher(tmp_path / "u.safetensors", again.model, again.program)
    assert load_teacher(tmp_path / "u.safetensors", program).info.num_classes == 2


@pytest.mark.parametrize("given", [None, "0" * 64])
def test_a_program_kept_in_anybodys_run_is_not_run_unless_its_hash_is_given(
    given: str | None, tmp_path: Path
) -> None:
    found = read(program_source("export", export(Plain().eval(), tmp_path / "program.pt2")))
    save_teacher(tmp_path / "t.safetensors", found.model, found.program)
    for take in (lambda path: load_teacher(path, given), lambda path: read(str(path), sha256=given)):
        with pytest.raises(UsageError, match=f"holds a export program with sha256 {hash_of(found.program)}"):
            take(tmp_path / "t.safetensors")


def test_images_are_normalised_as_the_teacher_wants_them(tmp_path: Path) -> None:
    plain = Plain().eval()
    torch.jit.save(torch.jit.script(plain), tmp_path / "program.pt")
    source = {**program_source("torchscript", tmp_path / "program.pt"), "mean": [0.5] * 3, "std": [0.25] * 3}
    rgb = torch.rand(1, 3, 32, 32)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (CheckpointMetadata.mean, CheckpointMetadata.std))
    with torch.no_grad():
        torch.testing.assert_close(
            read(source).model((rgb - mean) / std).logits, plain((rgb - 0.5) / 0.25)["logits"]
        )


def test_classes_that_are_put_together_add_up_their_probabilities(hub: Any) -> None:
    source = transformers_source(hub(segformer))
    merged = read(source, classes=("far", "near"), class_map={"far": (0, 3), "near": (1,)}).model
    with torch.no_grad():
        theirs, ours = segformer()(images()).logits, merged(images()).logits
    shares = theirs.softmax(1)
    torch.testing.assert_close(
        ours.softmax(1)[:, 0], (shares[:, 0] + shares[:, 3]) / (1 - shares[:, 2]), atol=1e-4, rtol=1e-4
    )
    assert merged.info.num_classes == 2


def run_file(folder: Path, classes: tuple[str, ...]) -> str:
    torch.manual_seed(0)
    path = folder / "run.safetensors"
    model = build_model("segformer-test_vit", len(classes), head_channels=8)
    save_model(path, model, CheckpointMetadata(classes))
    return str(path)


@pytest.mark.parametrize(
    ("class_map", "message"),
    [
        (None, r"classes \(sky, road, bus\) are not the data set's 4 .*write `class_map`"),
        ({"sky": ("sky",), "road": ("road",), "car": ("bus",)}, "class_map lacks person"),
        ({"sky": ("sky",), "road": ("road",), "car": ("bus",), "person": ("sky",)}, "uses the teacher's sky twice"),
        ({"sky": ("sky",), "road": ("raod",), "car": ("bus",), "person": (1,)}, "did you mean 'road'"),
        ({"sky": ("sky",), "road": (7,), "car": ("bus",), "person": (1,)}, "class 7, must be from 0 to 2"),
        ({"sky": (0,), "road": (1,), "car": (2,), "persons": (2,)}, "'persons' is not known; did you mean 'person'"),
    ],
)  # fmt: skip
def test_a_class_map_that_does_not_fit_says_where(
    class_map: dict[str, tuple[int | str, ...]] | None, message: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=message):
        read(run_file(tmp_path, ("sky", "road", "bus")), class_map=class_map)


def test_other_names_in_equal_number_need_a_map_too(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="write `class_map`"):
        read(run_file(tmp_path, ("sky", "road", "bus", "bike")))


def test_a_demanded_hash_is_checked_and_the_found_one_told(tmp_path: Path) -> None:
    path = run_file(tmp_path, CLASSES)
    found = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    assert read(path, sha256=found).model.info.num_classes == 4
    with pytest.raises(UsageError, match=f"has sha256 {found}, the config demands {'0' * 64}"):
        read(path, sha256="0" * 64)


def test_sizes_that_a_teacher_does_not_take_are_found_out_at_once(tmp_path: Path) -> None:
    source = program_source("export", export(Plain().eval(), tmp_path / "program.pt2"))
    with pytest.raises(UsageError, match="does not take two images of 60×64"):
        read(source, sizes=[(60, 64)])


def test_a_tap_that_names_nothing_is_answered_with_the_nearest(tmp_path: Path) -> None:
    path = export(Silent().eval(), tmp_path / "program.pt2")
    taps = {"stages": ["stem", "stem", "dwon", "down"], "logits": 0}
    with pytest.raises(UsageError, match="tap 'dwon' is not known; did you mean 'down'"):
        read(program_source("export", path, taps))


def test_an_export_that_says_it_holds_pickles_is_not_read(tmp_path: Path) -> None:
    path, spoilt = export(Plain().eval(), tmp_path / "program.pt2"), tmp_path / "spoilt.pt2"
    with zipfile.ZipFile(path) as whole, zipfile.ZipFile(spoilt, "w") as copy:
        for name in whole.namelist():
            content = whole.read(name)
            if name.endswith("weights_config.json"):
                content = json.dumps(json.loads(content)).replace("false", "true").encode()
            copy.writestr(name, content)
    with pytest.raises(UsageError, match="holds pickled objects, must hold plain tensors"):
        read(program_source("export", spoilt))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "mask2former"}, "type 'mask2former' cannot be a teacher; those that can: segformer, upernet"),
        ({"model_type": "upernet", "backbone": "microsoft/swin"}, "is a name, must be a config"),
        ({"model_type": "dpt", "is_hybrid": True}, "must be plain"),
        ({"model_type": "segformer", "sr_ratios": [4, 4, 2, 1]}, r"sr_ratios \[4, 4, 2, 1\]: must be \[8, 4, 2, 1\]"),
    ],
)  # fmt: skip
def test_a_model_of_transformers_that_cannot_serve_is_refused_with_the_reason(
    config: dict[str, Any], message: str, tmp_path: Path
) -> None:
    from safetensors.torch import save_file

    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file({"weight": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(UsageError, match=message):
        read(transformers_source(tmp_path))


def test_a_folder_without_weights_says_what_to_save(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "segformer"}')
    with pytest.raises(UsageError, match=r"holds neither model\.safetensors nor pytorch_model\.bin"):
        read(transformers_source(tmp_path))


def test_torchvision_models_without_a_twin_here_are_refused_by_name(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(1)}, tmp_path / "w.pth")
    with pytest.raises(UsageError, match="'lraspp-mobilenet' cannot be converted; those that can: deeplabv3"):
        read({"kind": "torchvision", "path": str(tmp_path / "w.pth")}, "lraspp-mobilenet")
