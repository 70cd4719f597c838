"""What people's folders hold: each oddity is read with the right value, or refused with value, rule and remedy."""

from __future__ import annotations

import os
import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from distill.data import FolderConfig, build_dataset
from distill.data.__main__ import main
from distill.data.check import check_dataset
from distill.errors import UsageError
from tests.distill.data.strange_folders import (
    COLOURS,
    NAMES,
    TRAIN,
    Case,
    both,
    copied,
    cut,
    drawn,
    files,
    into_clip,
    into_folder,
    jpeg,
    linked,
    lists,
    litter,
    looped,
    masks,
    named,
    names,
    nothing,
    palette_mask,
    pictures,
    saved_again,
    table,
    write_base,
    zeroed,
)
from tests.distill.data.test_one_reader import GREY, RGB, exif, png


def write_12_bits(path: Path, number: int) -> None:
    """Replace a picture by a PNG of 16 bits that holds 12."""
    path.with_suffix(".png").write_bytes(png(drawn(number)[0].astype(np.uint16) * 16, 16, RGB))
    path.unlink()


CLIPS = tuple(f"clip1/{name}" for name in NAMES)
UMLAUTS = tuple(f"ä{name}" for name in NAMES)
CASES = {
    # pictures
    "plain": Case(nothing),
    "camera held upside down": Case(
        pictures(lambda path, image: image.rotate(180).save(path, exif=exif(3), quality=95, subsampling=0)),
        note="6 pictures are turned upright by their EXIF orientation",
    ),
    "portrait stored as landscape": Case(
        pictures(lambda path, image: image.transpose(Image.Transpose.ROTATE_90).save(path, exif=exif(6), quality=95, subsampling=0)),
        note="6 pictures are turned upright",
    ),
    "cut JPEGs": Case(files(cut(0.6), "images"), ("p0.jpg ends too early", "must end", "upload it again", "5 other files")),
    "one cut JPEG": Case(files(cut(0.5), "images", (5,)), ("p5.jpg ends too early", "must end", "upload it again")),
    "zeros in a JPEG": Case(files(zeroed, "images", (4,)), ("p4.jpg", "must be", "upload it again")),
    "no bytes": Case(files(cut(0), "images", (4,)), ("p4.jpg is not a PNG or JPEG image", "upload it again")),
    "12 bits in 16": Case(
        files(write_12_bits, "images"),
        ("16 bits per channel", "must have", "multiplied"),
    ),
    "grey pictures": Case(
        pictures(lambda path, image: image.convert("L").save(path, quality=95)),
        picture=lambda image_hw3: np.asarray(Image.fromarray(image_hw3).convert("L").convert("RGB")),
    ),
    "CMYK": Case(pictures(lambda path, image: image.convert("CMYK").save(path, quality=95, subsampling=0))),
    "several pictures in a file": Case(
        pictures(lambda path, image: image.save(path, "MPO", save_all=True, append_images=[image], quality=95, subsampling=0))
    ),
    "pictures with alpha": Case(
        both(
            pictures(lambda path, image: (image.putalpha(Image.linear_gradient("L").resize(image.size)), image.save(path.with_suffix(".png")))),
            lambda root: [path.unlink() for path in (root / "images").glob("*.jpg")],
        )
    ),
    # masks
    "grey of 2 bits": Case(masks(lambda labels_hw, _: png(labels_hw[..., None], 2, GREY))),
    "grey of 1 bit": Case(
        both(masks(lambda labels_hw, _: png((labels_hw[..., None] == 2).astype(np.uint8), 1, GREY)), table("value,name\n0,rest\n1,top\n")),
        labels=lambda labels_hw: (labels_hw == 2).astype(np.uint8),
    ),
    "1 bit of what was 255": Case(
        both(masks(lambda labels_hw, _: png((labels_hw[..., None] == 2).astype(np.uint8), 1, GREY)), table("value,name\n0,rest\n255,top\n")),
        ("6 label maps hold label 1, must be one of 0, 255", "add it to `classes`"),
        options={"ignored": []},
    ),
    "grey of 16 bits": Case(
        masks(lambda labels_hw, _: png(labels_hw[..., None].astype(np.uint16), 16, GREY)), ("16 bits", "must hold 8 bits", "save it as 8-bit PNG")
    ),
    "JPEG named .png": Case(masks(lambda labels_hw, _: jpeg(labels_hw)), ("p0.png is a JPEG", "must be a PNG", "export the label maps again")),
    "palettes in another order": Case(
        masks(lambda labels_hw, number: palette_mask(labels_hw, [[2, 0, 1], [1, 2, 0]][number % 2])),
        ("the colour", "must be one value", "Save the label maps with one palette"),
    ),
    "palette": Case(masks(lambda labels_hw, _: palette_mask(labels_hw, [0, 1, 2]))),
    "alpha in a mask": Case(
        masks(lambda labels_hw, _: Image.merge("LA", [Image.fromarray(labels_hw)] * 2)), ("2 channels", "must be a grey label map", "use the label maps")
    ),
    "coloured masks": Case(masks(lambda labels_hw, _: Image.fromarray(COLOURS[labels_hw])), ("3 channels", "must be a grey label map", "5 other files")),
    "smaller masks": Case(
        masks(lambda labels_hw, _: Image.fromarray(labels_hw[::2, ::2])), ("p0.jpg is 24×32", "p0.png is 12×16", "must be of one size", "5 other files")
    ),
    "wrong values in all masks": Case(
        masks(lambda labels_hw, number: Image.fromarray(labels_hw + np.uint8(number))),
        ("5 label maps hold labels 3, 4, 5, 6, 7, must be one of 0–2, 255; add it to `classes` or `ignored` (first:",),
    ),
    # files
    "bytes behind the end of a PNG": Case(files(lambda path, _: path.write_bytes(path.read_bytes() + b"written by a program"), "masks")),
    "a cut JPEG whose end was put back": Case(
        files(lambda path, _: path.write_bytes(path.read_bytes()[: path.stat().st_size - 20] + b"\xff\xd9"), "images", (4,)),
        note="1 JPEG pictures make their decoder warn of damaged data",
    ),
    "pages of a TIFF": Case(
        both(
            pictures(lambda path, image: image.save(path.with_suffix(".tif"), save_all=True, append_images=[image.rotate(90)])),
            lambda root: [path.unlink() for path in (root / "images").glob("*.jpg")],
        ),
        note="6 files have several pages or frames (first:",
    ),
    "animated PNG": Case(
        both(
            pictures(lambda path, image: image.save(path.with_suffix(".png"), save_all=True, append_images=[image.rotate(90)])),
            lambda root: [path.unlink() for path in (root / "images").glob("*.jpg")],
        ),
        note="6 files have several pages or frames (first:",
    ),
    "JPEG 2000 named .jpg": Case(
        pictures(lambda path, image: image.save(path, "JPEG2000")), ("p0.jpg is not a PNG or JPEG image but a JPEG 2000 image", "convert it to PNG")
    ),
    "pointers of Git LFS": Case(
        files(lambda path, _: path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:a\nsize 9\n"), "images"),
        ("p0.jpg is not a PNG or JPEG image but a pointer of Git LFS", "`git lfs pull` fetches", "5 other files"),
    ),
    "web pages": Case(files(lambda path, _: path.write_text("<html>404"), "images"), ("p0.jpg is not a PNG or JPEG image but text",)),
    "empty files": Case(files(lambda path, _: path.write_bytes(b""), "masks", (1,)), ("p1.png is not a PNG or JPEG image: it is empty", "upload it again")),
    "a phone's picture named .jpg": Case(
        files(lambda path, _: path.write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"), "images", (1,)), ("p1.jpg is not a PNG or JPEG image but a HEIC image", "convert it to JPEG")
    ),
    # splits
    "a class that train and test lack": Case(
        masks(lambda labels_hw, _: Image.fromarray(labels_hw % 2)), note="no pixel of top in the 2 label maps of test: it is not in the mean IoU",
        labels=lambda labels_hw: labels_hw % 2,
    ),
    "test without a valid pixel": Case(
        masks(lambda labels_hw, _: Image.fromarray(np.full_like(labels_hw, 255)), (4, 5)),
        ("the 2 label maps of test have only ignored pixels (values 255)", "must have a pixel of a class", "check the label maps"),
    ),
    "train without a valid pixel": Case(
        masks(lambda labels_hw, _: Image.fromarray(np.full_like(labels_hw, 255)), (0, 1, 2, 3)),
        ("label maps of train (student) have only ignored pixels", "must have a pixel of a class"),
    ),
    "a class that is written as ignored": Case(
        both(masks(lambda labels_hw, _: Image.fromarray(np.where(labels_hw == 2, 255, 0).astype(np.uint8))), table("value,name\n0,rest\n1,top\n")),
        note="all labelled pixels of train are of one class, and 25 % of its pixels are ignored",
        labels=lambda labels_hw: np.where(labels_hw == 2, 255, 0).astype(np.uint8),
    ),
    "a class and ignored": Case(table("value,name\n0,rest\n255,top\n"), ("value 255 is a class and ignored", "set ignored to []")),
    "one train picture": Case(
        lambda root: (root / "train.txt").write_text("p0\n"), ("has 1 train picture (p0)", "needs at least 2", "add a picture, or set protocol: paper")
    ),
    "one picture in train and test": Case(copied, note="1 pictures of test are the same files as pictures of train"),
    "a picture of train that was saved again in test": Case(saved_again, note="1 pictures of test look the same as pictures of train (first:"),
    "a picture in two lists": Case(lists(lambda name: name.replace("p4", "p0")), ("1 pictures are in train and in test", "must be in one", "take them out")),
    # names
    "suffixes in any case": Case(names("images", lambda path: path.stem + [".jpg", ".JPG", ".jpeg", ".Jpg", ".JPEG", ".jPg"][int(path.stem[1])])),
    "masks named .PNG": Case(names("masks", lambda path: path.stem + ".PNG")),
    "TIFF": Case(
        both(
            pictures(lambda path, image: image.save(path.with_suffix(".tif"))),
            lambda root: [path.unlink() for path in (root / "images").glob("*.jpg")],
        )
    ),
    "pictures of a phone": Case(names("images", lambda path: path.stem + ".HEIC"), ("p0.HEIC is there", "must be .jpg or", "convert the .HEIC files")),
    "masks named .jpg": Case(names("masks", lambda path: path.stem + ".jpg"), ("p0.jpg is there", "must be .png", "export it again as PNG")),
    "folders swapped": Case(
        nothing, ("p0.jpg is there", "are pictures and label maps swapped?"), options={"images": "masks", "masks": "images"}
    ),
    "folders of PNGs swapped": Case(
        both(
            pictures(lambda path, image: image.save(path.with_suffix(".png"))),
            lambda root: [path.unlink() for path in (root / "images").glob("*.jpg")],
        ),
        ("has 3 channels, must be a grey label map", "are pictures and label maps swapped?"),
        options={"images": "masks", "masks": "images"},
    ),
    "ending of the masks": Case(names("masks", lambda path: path.stem + "_mask.png"), ("p0_mask.png is there", "set mask_suffix: _mask.png")),
    "ending of the masks in the config": Case(names("masks", lambda path: path.stem + "_L.png"), options={"mask_suffix": "_L.png"}),
    "endings as Cityscapes": Case(
        both(names("images", lambda path: path.stem + "_rgb.jpg"), names("masks", lambda path: path.stem + "_gt.png"), lists("{}_rgb.jpg".format)),
        options={"image_suffix": "_rgb.jpg", "mask_suffix": "_gt.png"},
    ),
    "a suffix that is none": Case(nothing, ("mask_suffix is '_mask', must end in .png",), options={"mask_suffix": "_mask"}),
    "upper case names": Case(names("masks", lambda path: path.name.upper()), ("P0.PNG is there", "use the same upper and lower case letters")),
    "pictures and masks in one folder": Case(
        lambda root: [path.rename(root / "images" / path.name) for path in (root / "masks").iterdir()],
        ("have the same name without suffix", "must differ", "set image_suffix to one suffix"), options={"masks": "images"},
    ),
    "one folder, one suffix": Case(
        lambda root: [path.rename(root / "images" / path.name) for path in (root / "masks").iterdir()],
        options={"masks": "images", "image_suffix": ".jpg"},
    ),
    "NFC and NFD": Case(both(names("images", named("NFD")), names("masks", named("NFC")), lists("ä{}".format)), keys=UMLAUTS),
    "a list in NFD": Case(
        both(names("images", named("NFC")), names("masks", named("NFC")), lists(lambda name: unicodedata.normalize("NFD", f"ä{name}"))), keys=UMLAUTS
    ),
    "Images in upper case": Case(lambda root: (root / "images").rename(root / "Images"), ("images does not exist", "Did you mean 'Images'?", "Expected")),
    "links": Case(linked),
    "a loop of links": Case(looped),
    "a link to nothing": Case(
        files(lambda path, _: (path.unlink(), path.symlink_to("gone.jpg")), "images", (4,)), ("p4.jpg cannot be read: No such file", "upload it again")
    ),
    "a link to itself": Case(
        files(lambda path, _: (path.unlink(), path.symlink_to(path.name)), "images", (4,)), ("p4.jpg cannot be read: Too many levels", "upload it again")
    ),
    "what systems write beside pictures": Case(litter),
    "a pipe": Case(lambda root: ((root / "images/p4.jpg").unlink(), os.mkfifo(root / "images/p4.jpg")), ("'p4' in line 1", "p4.jpg is missing")),
    # lists
    "CRLF and a byte-order mark": Case(lists("{}\r".format, "utf-8-sig")),
    "UTF-16 as PowerShell writes it": Case(lists("{}\r".format, "utf-16")),
    "UTF-32": Case(lists("{}\r".format, "utf-32")),
    "Latin-1": Case(lists("ä{}".format, "latin-1"), ("train.txt:1: holds the byte 0xe4", "must be UTF-8", "save it as UTF-8")),
    "two columns": Case(lists("images/{0}.jpg masks/{0}.png".format)),
    "CSV": Case(lists('"{0}.jpg","{0}.png"'.format)),
    "a second column with another mask": Case(
        both(names("masks", lambda path: path.stem + "_mask.png"), lists("{0}.jpg {0}_mask.png".format)),
        ("train.txt:1: picture 'p0' is paired with the mask 'p0_mask'", "must have the same name", "set mask_suffix: _mask.png"),
    ),
    "a second column that is no mask": Case(lists("{} 1".format), ("train.txt:1: '1' follows the picture 'p0'", "must be its mask or nothing", "remove")),
    "the folder before the name": Case(lists("images/{}.jpg".format)),
    "paths from the list's folder": Case(lists("./images/{}.jpg".format)),
    "paths of masks": Case(lists("masks/{}.png".format)),
    "absolute paths": Case(lists("{{root}}/images/{}.jpg".format)),
    "absolute paths of another machine": Case(lists("/home/eve/mine/images/{}.jpg".format)),
    "absolute paths of Windows": Case(lists("D:\\mine\\images\\{}.jpg".format)),
    "paths of another data set": Case(lists("/home/eve/other/images/{}.jpg".format), ("/home/eve/other/images/p0' in line 1", "p0.jpg is there", "write 'p0' in the list")),
    "backslashes": Case(both(into_clip, lists("clip1\\{}.jpg\r".format)), keys=CLIPS),
    "no folder before the name": Case(into_clip, ("'p0' in line 1", "clip1/p0.jpg is there", "write 'clip1/p0' in the list")),
    "a name that nothing has": Case(lists(lambda name: name.replace("p3", "pp3")), ("'pp3' in line 4", "p3.jpg is there", "use the same name")),
    "numbers without their zeros": Case(
        both(names("images", lambda path: f"00{path.name[1:]}"), names("masks", lambda path: f"00{path.name[1:]}"), lists(lambda name: name[1:])),
        ("'0' in line 1", "but 000.jpg is there; use the same name"),
    ),
    "heads of columns": Case(lists(lambda name: ("image,mask\n" if name in ("p0", "p4") else "") + f"{name}.jpg,{name}.png")),
    "all names in one line": Case(
        lambda root: (root / "train.txt").write_text(" ".join(TRAIN)), ("train.txt:1: 'p3' follows the picture 'p0'", "write one picture a line")
    ),
    "a list of another kind": Case(lambda root: (root / "train.txt").write_text("x" * 5000), ("train.txt:1: has 5000 characters", "one picture a line")),
    "a folder named as a picture": Case(
        lambda root: ((root / "images/p3.jpg").unlink(), (root / "images/p3.jpg").mkdir()), ("p3.jpg is missing). Unpack the archives",)
    ),
    "a comment": Case(lists(lambda name: f"# {name}\n{name}")),
    "a name twice": Case(lists(lambda name: f"{name}\n{name}.jpg"), ("train.txt:2: 'p0' is already in line 1", "must occur once", "remove one")),
    "a list that is a folder": Case(lambda root: ((root / "train.txt").unlink(), (root / "train.txt").mkdir()), ("train.txt is not a file", "must be")),
    # class tables
    "semicolons": Case(table("value;name\n0;dark\n1;bright\n2;top\n")),
    "tabs, spaces, capitals": Case(table(" Value\tNAME \n0\tdark\n1\t bright\n2\ttop\n")),
    "spaces after commas": Case(table("value, name\n0, dark\n1, bright\n2, top\n")),
    "blank lines": Case(table("value,name\n\n0,dark\n1,bright\n,\n2,top\n\n")),
    "UTF-16": Case(table("value,name\r\n0,dark\r\n1,bright\r\n2,top\r\n", "utf-16")),
    "numbers of a spreadsheet": Case(table("value,name\n0.0,dark\n1.0,bright\n2.0,top\n")),
    "a half-filled colour": Case(
        table("value,name,red,green,blue\n0,dark,0,0,0\n1,bright,128,,0\n2,top,0,128,0\n"),
        ("classes.csv:3: the colour is '128,,0'", "must have red, green and blue", "fill or empty all three"),
    ),
    "colours of other tools": Case(table("value,name,r,g,b\n0,dark,0,0,0\n"), ("classes.csv:1: the header is 'value,name,r,g,b', must be value,name", "first line")),
    "no header": Case(table("0,dark\n1,bright\n2,top\n"), ("classes.csv:1: the header is '0,dark', must be value,name", "write it as the first line")),
    "a name with a comma": Case(table("value,name\n0,dark, blue\n1,bright\n"), ("classes.csv:2: has 3 cells, must have 2", "quotes")),
    "a value too large": Case(table("value,name\n0,dark\n256,bright\n"), ("classes.csv:3: value is '256'", "must be a whole number from 0 to 255")),
    "a class table in Latin-1": Case(table("value,name\n0,Straße\n1,b\n", "latin-1"), ("classes.csv:2: holds the byte 0xdf", "save it as UTF-8")),
    "unpacked one folder deeper": Case(into_folder, ("classes.csv cannot be read", "mine/deeper/classes.csv is there: set root to")),
    "a packed root": Case(lambda root: (shutil.rmtree(root), root.write_text("PK")), ("classes.csv cannot be read: Not a directory", "mine is a file: unpack it")),
    "two classes of one colour": Case(
        table("value,name,red,green,blue\n0,dark,9,9,9\n1,bright,0,0,0\n2,top,9,9,9\n"), note="the classes dark, top have the same colour (9, 9, 9)"
    ),
    "no class table": Case(lambda root: (root / "classes.csv").rename(root / "Classes.csv"), ("classes.csv cannot be read", "Did you mean 'Classes.csv'?")),
    # settings
    "booleans as names": Case(nothing, ("is false, must be text; YAML reads no, off or false as false, so write it in quotes",), options={"classes": [False, True]}),
    "numbers as names": Case(nothing, ("is 0, must be text; write '0', in quotes",), options={"classes": [0, 1, 2]}),
    "names before values": Case(nothing, ("classes are written name: value", "must be value: name", "write {1: bright, …}"), options={"classes": {"dark": 0, "bright": 1}}),
    "a boolean as a value": Case(nothing, ("config.yaml:", "tune_seed is true, must be a number"), options={"ignored": [255], "tune_seed": True}),
    "one ignored value": Case(nothing, ("ignored is 255, must be a list of whole numbers such as [1, 2]",), options={"ignored": 255}),
    "no bucket": Case(nothing, ("root is 's3://', which has no bucket", "such as s3://bucket/folder"), options={"root": "s3://", "classes": ["a", "b"]}),
    "no root": Case(nothing, ("root is empty, must be a folder",), options={"root": None}),
    "a root that is a file": Case(lambda root: (shutil.rmtree(root), root.write_text("PK")), ("is a file; unpack it", "Expected"), options={"classes": ["a", "b"]}),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_an_oddity_of_a_folder_is_read_right_or_refused_with_value_rule_and_remedy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    case, root = CASES[name], tmp_path / "mine"
    write_base(root)
    case.change(root)
    settings = {"kind": "folder", "root": str(root), "classes": "classes.csv", **case.options}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    code = main(["check", str(tmp_path / "config.yaml"), "--full"])
    printed = capsys.readouterr()
    if case.refused:
        assert code == 2, printed.out
        for piece in case.refused:
            assert piece in printed.err
        return
    assert code == 0, printed.err
    assert case.note in printed.out
    assert ("look the same" in printed.out) == (case.change is saved_again)
    if not case.note:
        assert "note" not in printed.out
    config = FolderConfig.model_validate(settings)
    samples = [sample for split in ("train", "tune", "test") for sample in build_dataset(config, split)]  # type: ignore[arg-type]
    assert sorted(sample.key for sample in samples) == sorted(case.keys)
    for sample in samples:
        if case.change in (copied, saved_again) and sample.key == "p4":
            continue
        image_hw3, labels_hw = drawn(case.keys.index(sample.key))
        np.testing.assert_array_equal(sample.labels_hw, case.labels(labels_hw))
        difference = np.abs(sample.image_hw3.astype(int) - case.picture(image_hw3))
        assert difference.mean() < 6


@pytest.mark.parametrize("number", range(4))
def test_a_16_bit_picture_is_looked_at_though_a_quick_check_decodes_a_sample(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr("distill.data.check.SAMPLE", 1)
    root = tmp_path / "mine"
    write_base(root)
    write_12_bits(root / f"images/p{number}.jpg", number)
    with pytest.raises(UsageError, match=rf"p{number}.png (.|\n)*16 bits per channel"):
        check_dataset(FolderConfig(kind="folder", root=str(root), classes="classes.csv"))
