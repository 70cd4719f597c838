"""MODEL_CARD.md of an exported model: the leaderboard's card of the student, and how to use the files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from distill.export.graph import Graph
from distill.export.source import Source
from distill.models.costs import count_cost

USE = "\n## Use\n"
"""Heading of the section about use in a leaderboard's card; an exported model has its own section."""

_SIZES = {
    "any": "of any size",
    "even": "with sides that are multiples of 32 (`distill.predict` sees to that)",
}


def model_card(source: Source, files: Sequence[Path], graph: Graph | None) -> str:
    """The card's text; `files` are the exported files."""
    if source.row is None:
        top = "\n".join(_bare(source))
    else:
        board_card: str = source.row["card"]
        top = board_card.partition(USE)[0].rstrip("\n") + "\n"
    return top + "\n" + "\n".join([*_use(source, graph), *_data(source), *_files(files)]) + "\n"


def _bare(source: Source) -> Iterator[str]:
    """Lines about a model file without a leaderboard."""
    options, notes = source.model.options, source.metadata.notes
    height, width = notes.get("crop", (512, 512))
    cost = count_cost(options, height, width)
    yield from (f"# {_code(options.name)}", "", "A semantic segmentation model, exported from one file.", "")
    yield (
        "The file comes without a leaderboard, so this card gives no score. `python -m distill.export RUN --pair NAME` on the run "
        "that it came from does."
    )
    yield from ("", "| | |", "| --- | --- |")
    yield f"| parameters (M) | {cost.params / 1e6:#.3g} |"
    yield f"| GFLOPs at {height}×{width} | {cost.flops_forward / 1e9:#.3g} |"
    for name in ("dataset", "pair", "method", "seed", "trial_id"):
        if name in notes:
            yield f"| {name.replace('_id', '')} | {_code(str(notes[name]))} |"
    yield ""


def _use(source: Source, graph: Graph | None) -> Iterator[str]:
    metadata = source.metadata
    yield from ("## What the numbers mean", "")
    yield (
        "mIoU is the mean over the classes of the share of pixels that label and prediction have in common, among those "
        "that either has; 100 points are a perfect map. It was measured on the test split of the data set named below, "
        + ("in sliding windows" if metadata.window else "on whole pictures")
        + ", at the pictures' own size. FLOPs are of one picture, a multiply-accumulate is two; latency is the median "
        "of one picture at a time on the device named. An interval describes the variation of the mean over seeds or "
        "searches, not the variation of the scores over pictures."
    )
    yield from ("", "## Intended use", "")
    yield (
        "Labelling the pixels of pictures like those of its data set, as a part of a program whose mistakes a person or "
        "another part catches. Not meant for decisions about people, or where a wrong pixel does harm by itself."
    )
    yield from ("", "## Use", "", "On pictures, from a checkout of the project or with it installed:", "")
    yield from ("```sh", "python -m distill.predict model.safetensors PICTURES", "```", "", "In Python:", "")
    yield from (
        "```python",
        "from pathlib import Path",
        "from distill.data.images import read_image",
        "from distill.segmenter import load_segmenter",
        "",
        'picture = read_image(Path("picture.png"))  # as in training: RGB, upright by its EXIF orientation',
        'classes = load_segmenter("model.safetensors").labels(picture)  # H×W, a class per pixel',
        "```",
        "",
    )
    if graph is not None:
        yield from _graph_use(graph)
    yield (
        "Input of the weights themselves: RGB in [0, 1], less the mean "
        f"{_numbers(metadata.mean)}, divided by {_numbers(metadata.std)}."
    )
    if metadata.window:
        (high, wide), (down, across) = metadata.window["size"], metadata.window["stride"]
        yield f"It was scored in windows of {high}×{wide} pixels, {down} down and {across} across apart."
    if "crop" in metadata.notes:
        yield "It was trained on crops of {}×{} pixels.".format(*metadata.notes["crop"])
    yield ""


def _graph_use(graph: Graph) -> Iterator[str]:
    yield from ("Without the project, by onnxruntime alone:", "", "```python", "import numpy, onnxruntime")
    yield from ("from PIL import Image, ImageOps", "", 'session = onnxruntime.InferenceSession("model.onnx")')
    yield 'upright = ImageOps.exif_transpose(Image.open("picture.png"))'
    yield 'picture = numpy.asarray(upright.convert("RGB"))[None]'
    yield from ('(classes,) = session.run(["classes"], {"image": picture})  # 1×H×W, uint8', "```", "")
    taken = _SIZES.get(graph.sizes, f"of {graph.sizes} pixels (`distill.predict --window` cuts larger ones)")
    yield (
        f"The graph (opset {graph.opset}) takes RGB bytes, `N×H×W×3`, any number of pictures {taken}. Normalisation and enlarging are inside: "
        "feed it pictures as they are decoded. Its outputs are `classes`, `N×H×W`, and `logits`, `N×K×H×W`."
    )
    yield from ("", "Held to torch on pictures of noise, both on the CPU in float32:", "")
    yield from (
        "| pictures | largest logit | largest difference | pixels of another class |",
        "| --- | --- | --- | --- |",
    )
    for check in graph.checks:
        count, height, width = check.size
        yield (
            f"| {count} of {height}×{width} | {check.scale:.3g} | {check.logits:.2g} | {100 * check.pixels:.2g} % |"
        )
    yield ""


def _data(source: Source) -> Iterator[str]:
    notes = source.metadata.notes
    yield from ("## Data and licence", "")
    if "licence" not in notes:
        yield "The file does not say who may use its training pictures for what: ask where they came from."
    elif notes["licence"] is None:
        yield "Trained on generated scenes (`distill.data.scenes`); nobody has to be asked."
    else:
        yield (
            f"Who may use the training pictures, and what is made of them, for what: {_text(notes['licence'])}. "
            "The code's licence, Apache-2.0, does not cover them."
        )
    yield from ("", "| label | class | colour |", "| --- | --- | --- |")
    palette = source.metadata.palette or ()
    for label, name in enumerate(source.metadata.classes):
        colour = "#{:02x}{:02x}{:02x}".format(*palette[label]) if palette else "VOC's"
        yield f"| {label} | {_text(name)} | {colour} |"
    yield ""


def _files(files: Sequence[Path]) -> Iterator[str]:
    yield from ("## Files", "", "| file | bytes | sha256 |", "| --- | --- | --- |")
    for file in files:
        data = file.read_bytes()
        yield f"| `{file.name}` | {len(data)} | `{hashlib.sha256(data).hexdigest()}` |"


def _numbers(values: tuple[float, ...]) -> str:
    return f"({', '.join(f'{value:g}' for value in values)})"


def _code(text: str) -> str:
    return f"`{text.replace('`', '')}`"


def _text(text: str) -> str:
    """Foreign text with Markdown characters escaped."""
    for mark in "\\`*_[]<>|":
        text = text.replace(mark, f"\\{mark}")
    return text
