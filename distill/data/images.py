"""Reads pictures and label files, in training, evaluation, prediction, galleries and checks; errors name the file."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import cv2
import kornia_rs.io as kornia
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from distill.data.headers import Header, NotAnImageError, open_other, parse_header
from distill.data.roots import File
from distill.errors import UsageError

READER = 2
"""Version of the pixels that these functions return; part of the keys of caches."""

MOST_PIXELS = 2 * 89_478_485
"""Largest number of pixels of a file: Pillow's own limit, above which a small file can fill the memory."""

_GREY_STEP = {2: 85, 4: 17}  # by bits: Pillow multiplies grey values by it, so that the largest is white

_FULL_SCALE = 2**15
_ZEROS = bytes(512)  # a lost block of a file system is at least that long
_JPEG_END = b"\xff\xd9"
_CMYK = 4

_TURNS: dict[int, Callable[[NDArray[Any]], NDArray[Any]]] = {
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: pixels.swapaxes(0, 1)[:, ::-1],
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: lambda pixels: pixels.swapaxes(0, 1)[::-1],
}


class BrokenFileError(UsageError):
    """A file that cannot be read, decoded or interpreted; the message names it."""


def read_header(path: File) -> Header:
    """Read the header of an image file without decoding; checks that the file has its end.

    Raises:
        BrokenFileError: the file cannot be read, is no image, is truncated, or has too many pixels.
    """
    with _decoding(path), path.open("rb") as file:
        header = parse_header(file)
    _refuse_size(path, header)
    if not header.complete:
        raise BrokenFileError(_ends_early(path, header))
    return header


def read_image(path: File) -> NDArray[np.uint8]:
    """Read a picture as RGB `H×W×3`, upright by its EXIF orientation.

    Transparency is dropped. Values of 16 bits are divided by 256, so they must fill the 16 bits.

    Raises:
        BrokenFileError: the file cannot be read or decoded, or its values have an unknown scale.
    """
    with _decoding(path), path.open("rb") as file:
        data = file.read()
        header = parse_header(io.BytesIO(data))
        _refuse_size(path, header)
        refuse_depth(path, header)
        if header.format in ("PNG", "JPEG"):
            return upright(_decode(path, data, header), header.orientation)
        with open_other(io.BytesIO(data)) as picture:
            pixels = np.array(ImageOps.exif_transpose(picture).convert("RGB"), np.uint8)
    return pixels


def is_damaged_jpeg(path: File) -> bool:
    """Whether libjpeg warns of a JPEG that it decodes, in which case a part may be grey, shifted or noise.

    `read_image` accepts such a picture, because some programs write JPEGs with warnings whose pixels are right.
    """
    with _decoding(path), path.open("rb") as file:
        data = file.read()
        header = parse_header(io.BytesIO(data))
    if header.format != "JPEG" or header.channels == _CMYK or header.bits != 8:
        return False
    try:
        kornia.decode_image_jpegturbo(data, "rgb")
    except Exception:  # it has no error class of its own
        return True
    return False


def read_values(path: File) -> NDArray[np.uint8]:
    """Read the values `H×W` of a label file as they are stored: grey values, or palette indices.

    Raises:
        BrokenFileError: the file cannot be read or decoded.
        UsageError: it is no PNG, contains colours, or has more than 8 bits per pixel.
    """
    with _decoding(path), path.open("rb") as file:
        data = file.read()
        header = parse_header(io.BytesIO(data))
        _refuse_size(path, header)
        refuse_label_file(path, header)
        values = None if header.palette else _plain_png(data, header)
        if values is None:
            values = np.array(Image.open(io.BytesIO(data), formats=("PNG",)), np.uint8)
            if not header.palette:
                values //= _GREY_STEP.get(header.bits, 1)
    return upright(values, header.orientation)


def upright(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Turn pixels `H×W` or `H×W×C` that are stored with an EXIF orientation, from 1 to 8, upright."""
    turn = _TURNS.get(orientation)
    return pixels if turn is None else np.ascontiguousarray(turn(pixels))


def refuse_depth(path: File, header: Header) -> None:
    """Raise BrokenFileError if the header of a picture shows a depth of which no scale is known."""
    deepest = 16 if header.format == "PNG" else 8
    if header.bits > deepest:
        raise BrokenFileError(
            f"{path} is a {header.format} image with {header.bits} bits per channel, must have 8; save it as 8-bit PNG"
        )


def refuse_label_file(path: File, header: Header) -> None:
    """Raise UsageError if the header of a label file shows that it holds no class values."""
    if header.format != "PNG":
        lossy = (
            "; a JPEG changes the values, so export the label maps again" if header.format == "JPEG" else ""
        )
        raise UsageError(f"{path} is a {header.format} image whatever its name, must be a PNG{lossy}")
    if header.channels > 1:
        raise UsageError(
            f"{path} has {header.channels} channels, must be a grey label map or have a palette; "
            "use the label maps that hold class values, not the coloured ones (or are pictures and label maps swapped?)"
        )
    if header.bits > 8:
        raise UsageError(
            f"{path} holds {header.bits} bits per pixel, must hold 8 bits or fewer; save it as 8-bit PNG"
        )


def _decode(path: File, data: bytes, header: Header) -> NDArray[np.uint8]:
    """Pixels of a PNG or JPEG as they are stored, RGB."""
    plain = _plain_png(data, header) if header.channels > 1 else None
    if plain is not None:
        return plain
    # decoded from memory, because cv2.imread does not distinguish missing from broken files
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    if header.bits == 16:
        flags |= cv2.IMREAD_ANYDEPTH
    decoded = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    if decoded is None:
        if not header.complete:
            raise BrokenFileError(_ends_early(path, header))
        raise BrokenFileError(
            f"{path} is not an image that can be decoded ({len(data)} bytes of {header.format}), must be a PNG or JPEG; "
            "unpack or upload it again"
        )
    if header.format == "JPEG":
        _refuse_lost_block(path, data, header)
    pixels = _in_8_bits(path, decoded)
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB, dst=pixels), np.uint8)


def _plain_png(data: bytes, header: Header) -> NDArray[np.uint8] | None:
    """Pixels of an 8-bit grey or RGB PNG by the fastest decoder; None if the file is of another kind or broken."""
    if header.format != "PNG" or header.bits != 8 or header.interlaced or header.channels not in (1, 3):
        return None
    try:
        mode = "rgb" if header.channels == 3 else "mono"
        pixels = kornia.decode_image_png_u8(data, header.stored_size, mode)
    except Exception:  # it has no error class of its own; the caller's decoder reports the error
        return None
    return np.asarray(pixels, np.uint8) if header.channels == 3 else np.asarray(pixels[..., 0], np.uint8)


def _in_8_bits(path: File, pixels: NDArray[Any]) -> NDArray[np.uint8]:
    """Pixels of 8 or 16 bits in 8 bits; raises BrokenFileError if values of 16 bits do not fill them.

    Cameras and satellites with 10, 12 or 14 bits often store them in the lower part of 16 bits. Such a picture would be
    nearly black, and the largest value of one dark picture does not tell the number of bits.
    """
    if pixels.dtype != np.uint16:
        return np.asarray(pixels, np.uint8)
    largest = int(pixels.max(initial=0))
    if 0 < largest < _FULL_SCALE:
        bits = largest.bit_length()
        raise BrokenFileError(
            f"{path} has 16 bits per channel and no value above {largest}, must have values up to 65535, or 8 bits; "
            f"save all pictures again, multiplied by the same number (by {2 ** (16 - bits)} if they hold {bits} bits)"
        )
    return np.asarray(pixels >> 8, np.uint8)


def _refuse_lost_block(path: File, data: bytes, header: Header) -> None:
    """Raise BrokenFileError if a part of a JPEG was overwritten with zeros, which OpenCV draws as noise."""
    at = data.find(_ZEROS, header.pixels_at)
    if at < 0 or data[at - 2 : at] == _JPEG_END or header.channels == _CMYK:
        return
    try:
        # Unlike OpenCV it reports libjpeg's warnings. A picture of one colour has long runs of zeros and no warning.
        kornia.decode_image_jpegturbo(data, "rgb")
    except Exception as error:  # it has no error class of its own
        raise BrokenFileError(
            f"{path} is damaged: its bytes from {at} on are zeros, must be the pixels of a JPEG; unpack or upload it again"
        ) from error


def _refuse_size(path: File, header: Header) -> None:
    if not 0 < header.height * header.width <= MOST_PIXELS:
        raise BrokenFileError(
            f"{path} has {header.height}×{header.width} pixels by its header, must have from 1 to {MOST_PIXELS} in all "
            "(Pillow's limit, because a small file could fill the memory); cut it into tiles"
        )


def _ends_early(path: File, header: Header) -> str:
    return f"{path} ends too early, must end as a {header.format} image does; unpack or upload it again"


@contextmanager
def _decoding(path: File) -> Iterator[None]:
    """Convert any decoder's error to one that names the file; Pillow and OpenCV may raise any class."""
    try:
        yield
    except UsageError:
        raise
    except NotAnImageError as error:
        raise BrokenFileError(f"{path} is {error}; unpack or upload it again") from error
    except OSError as error:
        raise BrokenFileError(
            f"{path} cannot be read: {error.strerror or error}; unpack or upload it again"
        ) from error
    except Exception as error:
        first_line = str(error).partition("\n")[0]
        raise BrokenFileError(
            f"{path} cannot be decoded: {type(error).__name__}: {first_line}; unpack or upload it again, or save it as a "
            "plain 8-bit PNG"
        ) from error
