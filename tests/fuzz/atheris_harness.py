"""Coverage-guided fuzzing of what reads foreign bytes, by atheris; the long form beside hypothesis.

    python -m venv /tmp/atheris && /tmp/atheris/bin/pip install atheris
    PYTHONPATH=.:tests/fuzz:SITE_PACKAGES /tmp/atheris/bin/python tests/fuzz/atheris_harness.py yaml -max_total_time=300

SITE_PACKAGES is the folder of the project's own environment. Targets: yaml (config text), sweep (whole sweep files),
image, mask, table (Parquet files of the ledger), checkpoint (model files). The first run that ends in anything but a
reading or a refusal stops, and leaves its input beside it.
"""

from __future__ import annotations

import io
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import atheris

with atheris.instrument_imports(
    include=["distill", "orchestrator", "search_spaces", "yaml", "PIL", "safetensors"]
):
    from distill.data.images import read_header, read_image, read_values
    from distill.errors import UsageError
    from distill.yaml_reader import parse_yaml
    from orchestrator.ledger.tables import Ledger
    from orchestrator.planning.loader import load_sweep

FOLDER = Path(tempfile.mkdtemp(prefix="atheris-"))


def _with_file(name: str, read: Callable[[Path], object]) -> Callable[[bytes], None]:
    path = FOLDER / name
    path.parent.mkdir(parents=True, exist_ok=True)

    def target(data: bytes) -> None:
        path.write_bytes(data)
        read(path)

    return target


def _picture(path: Path) -> None:
    read_header(path)
    read_image(path)


def _checkpoint(path: Path) -> None:
    from distill.models.teachers import load_teacher

    load_teacher(path)


TARGETS: dict[str, Callable[[bytes], object]] = {
    "yaml": lambda data: parse_yaml(data, "x"),
    "sweep": _with_file("sweep.yaml", lambda path: load_sweep(str(path))),
    "image": _with_file("image.png", _picture),
    "mask": _with_file("mask.png", read_values),
    "table": _with_file("run/tables/trials/x.parquet", lambda path: Ledger(FOLDER / "run").read("trials")),
    "checkpoint": _with_file("model.safetensors", _checkpoint),
}


def seeds(name: str) -> Path:
    """A folder with one sound input, from which atheris sets out."""
    folder = FOLDER / f"seeds-{name}"
    folder.mkdir()
    if name in ("yaml", "sweep"):
        from search_spaces import preset_path

        data = preset_path("smoke").read_bytes()
    elif name in ("image", "mask"):
        from PIL import Image

        buffer = io.BytesIO()
        Image.new("RGB" if name == "image" else "L", (8, 8)).save(buffer, "PNG")
        data = buffer.getvalue()
    elif name == "table":
        Ledger(FOLDER / "seed").append("trials", [{"trial_id": "a", "attempt": 1, "params": {"x": 1.5}}], "x")
        data = (FOLDER / "seed" / "tables" / "trials" / "x.parquet").read_bytes()
    else:
        from distill.models import CheckpointMetadata, build_model, save_model

        save_model(
            FOLDER / "seed.safetensors", build_model("fcn-test_resnet", 2), CheckpointMetadata(("a", "b"))
        )
        data = (FOLDER / "seed.safetensors").read_bytes()
    (folder / "sound").write_bytes(data)
    return folder


def main() -> None:
    """Fuzzes the target named first; what follows goes to libFuzzer."""
    name, *options = sys.argv[1:]
    target = TARGETS[name]
    warnings.simplefilter("ignore")

    def once(data: bytes) -> None:
        try:
            target(data)
        except UsageError:
            return

    atheris.Setup([sys.argv[0], *options, str(seeds(name))], once)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
