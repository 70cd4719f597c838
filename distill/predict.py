"""python -m distill.predict MODEL PICTURES... [--output DIR] [--whole | --window H W] [--no-overlay]."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from distill.command_line import DONE, USAGE, exit_code_of, run_command

if TYPE_CHECKING:
    from distill.data.pictures import Task
    from distill.recipe import SlidingWindow
    from distill.segmenter import Segmenter

_LEAST_WINDOW = 32


@dataclass(frozen=True)
class PredictOptions:
    """Predict the classes of pictures: a mask with the data set's palette and an overlay of each, at its own size.

    Masks have the pictures' relative paths, below the output folder. A picture that cannot be read is reported and
    skipped. Exit codes: 0 done, 2 bad usage, or no picture could be read.
    """

    model: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """A model file of ours: models/*.safetensors of a run, or an exported .safetensors or .onnx."""
    pictures: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="PICTURE [PICTURE ...]")]
    """Files, folders (with all below them) or globs; or files and folders of a bucket, such as s3://bucket/folder."""
    output: Path = Path("predictions")
    """Folder to write into."""
    whole: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Take each picture whole, even where the model was scored in sliding windows."""
    window: tuple[int, int] | None = None
    """Height and width of sliding windows, two thirds of a window apart; as the model was scored by default."""
    overlay: bool = True
    """Write each picture with its classes' colours over it, too."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where to compute."""


def main() -> None:
    """Run the command and exit with one of the codes above."""
    run_command("python -m distill.predict", PredictOptions, command)


def command(options: PredictOptions) -> int:
    """Predict pictures; errors become an exit code and a message."""
    return exit_code_of(lambda: predict(options), "interrupted; the masks written so far are whole")


def predict(options: PredictOptions) -> int:
    """Predict all pictures; returns 2 if none could be read, else 0.

    Raises:
        UsageError: options exclude each other, the model or pictures are missing, or an output would overwrite an input.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from distill.data.images import BrokenFileError
    from distill.data.pictures import CLASS_TABLE, find_pictures, place_outputs, write_class_table
    from distill.segmenter import load_segmenter

    given = _window(options)
    tasks = place_outputs(find_pictures(options.pictures, options.output), options.output)
    segmenter = load_segmenter(options.model, options.device)
    window = given if given is not None or options.whole else segmenter.window
    columns = TextColumn("pictures"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    broken: list[str] = []
    began = time.perf_counter()
    with Progress(*columns, console=Console(stderr=True)) as progress:
        for task in progress.track(tasks):
            try:
                _one(segmenter, task, window, overlay=options.overlay)
            except BrokenFileError as error:
                broken.append(str(error))
    seconds = time.perf_counter() - began
    for message in broken:
        print(f"skipped: {message}", file=sys.stderr)
    done = len(tasks) - len(broken)
    skipped = f", {len(broken)} skipped that could not be read" if broken else ""
    if not done:
        print(f"error: none of {len(tasks)} pictures could be read", file=sys.stderr)
        return USAGE
    write_class_table(options.output / CLASS_TABLE, segmenter.classes, segmenter.palette)
    print(f"{done} pictures in {seconds:.1f} s, {done / seconds:.2f} a second{skipped}: {options.output}")
    return DONE


def _window(options: PredictOptions) -> SlidingWindow | None:
    from distill.errors import UsageError
    from distill.recipe import SlidingWindow

    if options.window is None:
        return None
    high, wide = options.window
    if options.whole:
        raise UsageError("--whole and --window exclude each other; give one of them")
    if min(high, wide) < _LEAST_WINDOW:
        raise UsageError(f"--window is {high} {wide}, each side must be at least {_LEAST_WINDOW} pixels")
    return SlidingWindow(size=(high, wide), stride=(high * 2 // 3, wide * 2 // 3))


def _one(segmenter: Segmenter, task: Task, window: SlidingWindow | None, *, overlay: bool) -> None:
    from distill.data.images import read_image
    from distill.data.pictures import write_mask, write_overlay
    from distill.device_errors import is_out_of_memory
    from distill.errors import UsageError

    image = read_image(task.picture)
    try:
        labels = segmenter.labels(image, window)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        height, width = image.shape[:2]
        raise UsageError(
            f"{task.picture} ({height}×{width}) does not fit into the device's memory; give smaller windows with "
            "--window H W"
        ) from error
    except UsageError as error:
        raise UsageError(f"{task.picture}: {error}") from error
    try:
        write_mask(task.mask, labels, segmenter.palette)
        if overlay:
            write_overlay(task.overlay, image, labels, segmenter.palette)
    except OSError as error:
        raise UsageError(f"{task.mask} cannot be written: {error.strerror or error}") from error


if __name__ == "__main__":
    main()
