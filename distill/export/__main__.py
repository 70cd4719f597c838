"""python -m distill.export RUN --pair NAME [--method NAME] [--compare steps | seconds] [--output DIR] [--no-onnx]."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from distill.command_line import DONE, run_command

if TYPE_CHECKING:
    from distill.export.graph import Graph

WEIGHTS, GRAPH, CARD = "model.safetensors", "model.onnx", "MODEL_CARD.md"


@dataclass(frozen=True)
class ExportOptions:
    """Take the best student of a pair out of a run: weights, ONNX and a model card.

    The method is the one with the highest mean test mIoU on the pair; of its seeds the one with the best tune mIoU.
    """

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder of a run (a path, or a URI such as s3://bucket/run), or one model file (.safetensors) on disk."""
    pair: str | None = None
    """Which pair, by its name on the board; may be left out where the run has only one."""
    method: str | None = None
    """Which method, by its name on the board; the pair's best by default."""
    compare: Literal["steps", "seconds"] | None = None
    """Which board, in a run that compares methods at equal steps and at equal seconds; the first one by default."""
    output: Path | None = None
    """Folder to write into; exported/PAIR by default."""
    onnx: bool = True
    """Write the ONNX graph too, and hold it to the model in onnxruntime (extra `onnx`)."""


def main() -> None:
    """Run the command; exit code 2 if the run, the choice or the model cannot be used."""
    run_command("python -m distill.export", ExportOptions, print_export)


def print_export(options: ExportOptions) -> int:
    """Export a model and print what was written."""
    for line in export(options):
        print(line)
    return DONE


def export(options: ExportOptions) -> list[str]:
    """Write weights, graph and card; returns the lines to print.

    Raises:
        UsageError: there is no such model, or onnxruntime's outputs differ from torch's.
    """
    from dataclasses import replace

    from distill.errors import UsageError
    from distill.export.card import model_card
    from distill.export.graph import refuse_without_onnx, write_graph
    from distill.export.source import read_source
    from distill.models import save_model

    if options.onnx:
        refuse_without_onnx()
    source = read_source(options.run, options.pair, options.method, options.compare)
    output = options.output or Path("exported") / source.name
    weights, onnx = output / WEIGHTS, output / GRAPH
    if "://" not in options.run and weights.resolve() == Path(options.run).resolve():
        raise UsageError(
            f"{weights} is what is to be exported, must not be written over; choose another --output"
        )
    model = source.model.eval()
    row = {key: value for key, value in (source.row or {}).items() if key != "card"}
    metadata = source.metadata
    if row:
        metadata = replace(metadata, notes={**metadata.notes, "board": row})
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"folder {output} cannot be made: {error.strerror}; choose another --output"
        ) from error
    for earlier in (weights, onnx, output / CARD):  # files of an earlier export
        earlier.unlink(missing_ok=True)
    graph: Graph | None = None
    if options.onnx:
        graph = write_graph(onnx, model, metadata)
    save_model(weights, model, metadata)
    files = [weights, *([onnx] if graph else [])]
    (output / CARD).write_text(model_card(source, files, graph), encoding="utf-8")
    named = f"{row['method']} on {row['pair']}, seed {row['seed']}" if row else source.name
    lines = [f"{named}: {', '.join(file.name for file in files)} and {CARD} in {output}"]
    if row.get("claim"):  # boards of older versions have none
        lines.append(row["claim"])
    for check in graph.checks if graph else ():
        count, height, width = check.size
        lines.append(
            f"onnxruntime beside torch on {count} of {height}×{width}: logits differ by {check.logits:.2g} of "
            f"{check.scale:.3g} at most, {100 * check.pixels:.2g} % of the pixels have another class"
        )
    return lines


if __name__ == "__main__":
    main()
