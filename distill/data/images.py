"""Reads headers and pixels of image files; errors name the file."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, NamedTuple

import cv2
import kornia_rs.io as kornia
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from distill.data.roots import File
from distill.errors import UsageError

_FORMATS = ("PNG", "JPEG")
_LABEL_MODES = ("L", "P", "1")
_CHANNELS = {"RGB": 3, "RGBA": 4, "LA": 2, "CMYK": 4, "YCbCr": 3}
_PNG_START = b"\x89PNG\r\n\x1a\n"
_PNG_END = b"IEND\xaeB`\x82"
# A PNG's first 29 bytes: width, height, bits, colour type, interlaced.
_PLAIN_PNG = struct.Struct(">8x8xIIBB2xB")
_GREY, _RGB = 0, 2  # colour types
_MOST_PIXELS = 2**30  # as many as OpenCV reads


class BrokenFileError(UsageError):
    """A file that cannot be read or decoded; the message names it."""


class Header(NamedTuple):
    """Header of an image file. `mode` is PIL's: RGB, L (grey), P (palette) …"""

    height: int
    width: int
    mode: str


def read_header(path: File) -> Header:
    """Read size and mode without decoding; checks that a PNG is complete.

    Raises:
        BrokenFileError: the file cannot be read, is neither PNG nor JPEG, or is truncated.
    """
    with _decoding(path), path.open("rb") as file:
        picture = _open(path, file)
        header = Header(picture.height, picture.width, picture.mode)
        if picture.format == "PNG":
            file.seek(-min(len(_PNG_END), file.seek(0, 2)), 2)
            if file.read() != _PNG_END:
                raise BrokenFileError(
                    f"{path} ends too early, must end as a PNG image does; unpack or upload it again"
                )
    return header


def read_image(path: File) -> NDArray[np.uint8]:
    """Read an RGB picture `H×W×3` without applying its EXIF orientation, since label maps have none.

    Raises:
        BrokenFileError: the file cannot be read or decoded.
        UsageError: it has more than 8 bits per channel.
    """
    # decoded from memory, because cv2.imread does not distinguish missing from broken files
    with _decoding(path), path.open("rb") as file:
        data = file.read()
        plain = _plain_png(data, _RGB)
        if plain is not None:
            return plain
        flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
        decoded = cv2.imdecode(np.frombuffer(data, np.uint8), flags) if data else None
    if decoded is None:
        raise BrokenFileError(
            f"{path} is not an image ({len(data)} bytes), must be a PNG or JPEG; unpack or upload it again"
        )
    picture: NDArray[np.uint8] = np.asarray(decoded, np.uint8)
    return np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB, dst=picture), np.uint8)


def read_values(path: File) -> NDArray[np.uint8]:
    """Read the values `H×W` of a label file: grey levels, or palette indices.

    Raises:
        BrokenFileError: the file cannot be read or decoded.
        UsageError: it contains colours, or more than 8 bits per pixel.
    """
    with _decoding(path), path.open("rb") as file:
        plain = _plain_png(file.read(), _GREY)
        if plain is not None:
            return plain
        file.seek(0)
        picture = _open(path, file)
        refuse_colours(path, picture.mode)
        values = np.array(picture, np.uint8)
    return values  # noqa: RET504 - inside the block a type checker would see a way past the return


def _plain_png(data: bytes, colour_type: int) -> NDArray[np.uint8] | None:
    """Pixels of an 8-bit PNG by the fastest decoder; None if the file is of another kind or broken."""
    if data[:8] != _PNG_START or len(data) < _PLAIN_PNG.size:
        return None
    width, height, *kind = _PLAIN_PNG.unpack_from(data)
    if kind != [8, colour_type, 0] or width * height > _MOST_PIXELS:
        return None
    try:
        pixels = kornia.decode_image_png_u8(data, (height, width), "rgb" if colour_type == _RGB else "mono")
    except Exception:  # it has no error class of its own; the caller's decoder reports the error
        return None
    return np.asarray(pixels, np.uint8) if colour_type == _RGB else np.asarray(pixels[..., 0], np.uint8)


def refuse_colours(path: File, mode: str) -> None:
    """Raise UsageError if a label file's mode shows that it contains no class values."""
    if mode in _LABEL_MODES:
        return
    if mode in _CHANNELS:
        raise UsageError(
            f"{path} has {_CHANNELS[mode]} channels, must be a grey label map or have a palette; "
            "use the label maps that hold class values, not the coloured ones"
        )
    raise UsageError(f"{path} holds values of mode {mode}, must hold 8 bits; save it as 8-bit PNG")


@contextmanager
def _decoding(path: File) -> Iterator[None]:
    """Convert any decoder's error to one that names the file; Pillow and OpenCV may raise any class."""
    try:
        yield
    except UsageError:
        raise
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


def _open(path: File, file: IO[bytes]) -> Image.Image:
    try:
        return Image.open(file, formats=_FORMATS)
    except (UnidentifiedImageError, SyntaxError) as error:
        file.seek(0)
        raise BrokenFileError(
            f"{path} is not a PNG or JPEG image (it starts with {file.read(8)!r}); unpack or upload it again"
        ) from error
