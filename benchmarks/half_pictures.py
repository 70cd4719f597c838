"""Writes CamVid at half the height and width, for the preset `camvid_half`: `python benchmarks/half_pictures.py ROOT HALF`.

A pixel of a picture is the mean of four; a pixel of a label map is one of the four labels.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image

from distill.errors import UsageError

FOLDERS = {
    name: name.endswith("annot") for split in ("train", "val", "test") for name in (split, f"{split}annot")
}


def main() -> None:
    """Halve every picture and label map."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("root", type=Path, help="CamVid, as `kind: camvid` reads it")
    parser.add_argument("half", type=Path, help="folder to write")
    options = parser.parse_args()
    try:
        print(f"{options.half}: {halve(options.root, options.half)} files")
    except UsageError as error:
        parser.error(str(error))


def halve(root: Path, half: Path) -> int:
    """Write the halves of all files below `root`; returns how many there are.

    Raises:
        UsageError: a folder of CamVid is missing or empty.
    """
    files = {name: sorted((root / name).glob("*.png")) for name in FOLDERS}
    if lacking := [name for name, found in files.items() if not found]:
        raise UsageError(
            f"'{root}' has no pictures in {', '.join(lacking)}, must be CamVid as docs/data.md describes it"
        )
    for name, labels in FOLDERS.items():
        (half / name).mkdir(parents=True, exist_ok=True)
        method = Image.Resampling.NEAREST if labels else Image.Resampling.BOX
        for path in files[name]:
            with Image.open(path) as image:
                image.resize((image.width // 2, image.height // 2), method).save(half / name / path.name)
    return sum(map(len, files.values()))


if __name__ == "__main__":
    main()
