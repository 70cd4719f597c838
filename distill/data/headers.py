"""Headers of image files: size, kind of pixels, orientation, and whether a file has its end.

Only the parts before the pixels and the end of a file are read. PNG and JPEG are parsed here, because a picture's
header is read before each decoding; Pillow opens all other formats.
"""

from __future__ import annotations

import re
import struct
import zlib
from typing import IO, NamedTuple

from PIL import ExifTags, Image, UnidentifiedImageError

OTHER_FORMATS = ("WEBP", "BMP", "TIFF", "GIF", "PPM", "AVIF")
"""Formats besides PNG and JPEG that a picture may have; Pillow decodes them."""

_PNG_START, _PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"
_IHDR = struct.Struct(">IIBB2xB")  # width, height, bits, colour type, interlaced
_PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_PALETTE_TYPE = 3
_TEXT_CHUNKS = (b"tEXt", b"zTXt", b"iTXt")
_LONGEST_TEXT = 2**20  # bytes of a compressed text that are read
_EXIF_AT_END = 2**16  # an eXIf chunk after the pixels is found if it starts in so many last bytes
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # markers with a JPEG's size
_SCAN = 0xDA
_JPEG_MARKER = re.compile(rb"\xff([\x01-\xcf\xd8-\xfe])")  # in a scan, FF00 and FFD0–FFD7 are data
_EXIF, _XMP = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0"
_XMP_ORIENTATION = re.compile(rb'tiff:Orientation(?:="|>)([0-9])')
_DEEP_MODES = {"I": 32, "F": 32, "I;16": 16, "I;16B": 16, "I;16L": 16, "I;16N": 16}
_BITS_PER_SAMPLE = 258  # tag of TIFF
_ORIENTATIONS = range(1, 9)


class NotAnImageError(ValueError):
    """A file that is no image, or whose header is damaged; the message completes "FILE is"."""


class Header(NamedTuple):
    """Header of an image file.

    Attributes:
        format: PNG, JPEG, or Pillow's name of another format.
        height: height of the picture when it is upright.
        width: width of the picture when it is upright.
        channels: stored channels; 1 for grey values and for palette indices.
        bits: bits per channel.
        palette: R, G, B of each palette index; empty if there is no palette.
        interlaced: whether a PNG is interlaced.
        orientation: EXIF orientation, from 1 to 8; 1 is stored upright.
        complete: whether a PNG or JPEG has its end.
        pixels_at: position of the compressed pixels of a JPEG.
        frames: number of pictures in a file that is no JPEG; the first is read.
    """

    format: str
    height: int
    width: int
    channels: int
    bits: int
    palette: bytes = b""
    interlaced: bool = False
    orientation: int = 1
    complete: bool = True
    pixels_at: int = 0
    frames: int = 1

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the upright picture."""
        return self.height, self.width

    @property
    def stored_size(self) -> tuple[int, int]:
        """Height and width as stored, before the picture is turned by its orientation."""
        return (self.width, self.height) if self.orientation > 4 else (self.height, self.width)


def parse_header(file: IO[bytes]) -> Header:
    """Parse the header of an image file that is open at its start.

    Raises:
        NotAnImageError: the file is no image of a known kind, or its header is damaged.
    """
    start = file.read(len(_PNG_START))
    if start == _PNG_START:
        return _png(file)
    file.seek(0)
    return _jpeg(file) if start.startswith(b"\xff\xd8\xff") else _other(file)


def _png(file: IO[bytes]) -> Header:
    length, kind = _chunk(file)
    data = file.read(length) if length == 13 else b""
    if kind != b"IHDR" or len(data) < 13:
        raise NotAnImageError("no PNG image: it has no header")
    width, height, bits, colour, interlaced = _IHDR.unpack(data)
    if colour not in _PNG_CHANNELS or bits not in (1, 2, 4, 8, 16):
        raise NotAnImageError(f"no PNG image: its header has {bits} bits of colour type {colour}")
    palette, orientation, frames = b"", 0, 1
    file.seek(4, 1)
    while (chunk := _chunk(file))[1] not in (b"IDAT", b""):
        length, kind = chunk
        if kind == b"PLTE":
            palette = file.read(min(length, 768))
            length -= len(palette)
        elif kind == b"acTL":  # an animation
            content = file.read(length)
            frames = max(1, int.from_bytes(content[:4]))
            length -= len(content)
        elif kind == b"eXIf":
            content = file.read(length)
            orientation = orientation or _exif_orientation(content)
            length -= len(content)
        elif kind in _TEXT_CHUNKS:
            content = file.read(length)
            orientation = orientation or _text_orientation(kind, content)
            length -= len(content)
        file.seek(length + 4, 1)
    if colour == _PALETTE_TYPE and not palette:
        raise NotAnImageError("no PNG image: its palette is missing")
    size = file.seek(0, 2)
    file.seek(max(0, size - _EXIF_AT_END))
    end = file.read()
    if not orientation:
        orientation = _late_orientation(end)
    return _upright(
        "PNG", height, width, _PNG_CHANNELS[colour], bits, orientation,
        palette=palette if colour == _PALETTE_TYPE else b"",
        interlaced=bool(interlaced),
        complete=_PNG_END in end,  # programs may write more behind it
        frames=frames,
    )  # fmt: skip


def _chunk(file: IO[bytes]) -> tuple[int, bytes]:
    """Length and type of a PNG's next chunk; an empty type at the end of the file."""
    head = file.read(8)
    return (int.from_bytes(head[:4]), head[4:]) if len(head) == 8 else (0, b"")


def _text_orientation(kind: bytes, content: bytes) -> int:
    """Orientation in a PNG's text, which Pillow's programs and ImageMagick write instead of a chunk; 0 without one."""
    name, _, text = content.partition(b"\0")
    if name == b"XML:com.adobe.xmp" and kind == b"iTXt":
        return _xmp_orientation(text)
    if name != b"Raw profile type exif":
        return 0
    try:
        raw = zlib.decompressobj().decompress(text[1:], _LONGEST_TEXT) if kind == b"zTXt" else text
        return _exif_orientation(bytes.fromhex("".join(raw.decode("latin-1").split("\n")[3:])))
    except (ValueError, zlib.error):  # a damaged note on a sound picture
        return 0


def _late_orientation(end: bytes) -> int:
    """Orientation in an eXIf chunk after a PNG's pixels; 0 without one."""
    at = end.rfind(b"eXIf")
    if at < 4:
        return 0
    length = int.from_bytes(end[at - 4 : at])
    stops = end[at + 4 + length + 8 : at + 4 + length + 12]  # the type of the chunk behind it
    return _exif_orientation(end[at + 4 : at + 4 + length]) if stops in (b"IEND", *_TEXT_CHUNKS) else 0


def _jpeg(file: IO[bytes]) -> Header:
    frame: tuple[int, int, int, int] | None = None
    exif = xmp = 0
    file.seek(2)
    while True:
        marker = _marker(file)
        if marker is None:
            raise NotAnImageError("no whole JPEG image: its header is cut or damaged")
        length = int.from_bytes(file.read(2)) - 2
        if marker in _FRAMES:
            content = file.read(6)
            if len(content) == 6:
                frame = struct.unpack(">BHHB", content)
            length -= len(content)
        elif marker == 0xE1:
            content = file.read(max(0, length))
            if content.startswith(_EXIF):
                exif = exif or _exif_orientation(content)
            elif content.startswith(_XMP):
                xmp = xmp or _xmp_orientation(content)
            length -= len(content)
        file.seek(max(0, length), 1)
        if marker == _SCAN:
            break
    if frame is None:
        raise NotAnImageError("no JPEG image: it has no size")
    bits, height, width, channels = frame
    at = file.tell()
    return _upright(
        "JPEG", height, width, channels, bits, exif or xmp, complete=_jpeg_ends(file, at), pixels_at=at
    )


def _marker(file: IO[bytes]) -> int | None:
    """The next marker of a JPEG's header; None at the end of the file, or where there is none."""
    if file.read(1) != b"\xff":
        return None
    while (byte := file.read(1)) == b"\xff":  # markers may be padded
        pass
    return byte[0] if byte else None


def _jpeg_ends(file: IO[bytes], pixels_at: int) -> bool:
    """Whether the end-of-image marker is in the file; cameras may write more behind it."""
    size = file.seek(0, 2)
    file.seek(max(pixels_at, size - 64))
    if file.read().rstrip(b"\0").endswith(b"\xff\xd9"):
        return True
    file.seek(pixels_at)
    data, at = file.read(), 0
    while found := _JPEG_MARKER.search(data, at):
        if found[1] == b"\xd9":
            return True
        at = found.end() + int.from_bytes(data[found.end() : found.end() + 2])
    return False


def open_other(file: IO[bytes]) -> Image.Image:
    """Open a file of one of `OTHER_FORMATS` by Pillow.

    Raises:
        NotAnImageError: it has none of these formats.
    """
    Image.init()  # older versions of Pillow lack a format, and raise KeyError if asked for it
    try:
        return Image.open(file, formats=[name for name in OTHER_FORMATS if name in Image.OPEN])
    except (UnidentifiedImageError, SyntaxError) as error:
        file.seek(0)
        raise NotAnImageError(_resemblance(file.read(32))) from error


def _resemblance(start: bytes) -> str:
    """What a file seems to be that is no image of a known kind."""
    if not start:
        return "not a PNG or JPEG image: it is empty"
    if start.startswith(b"version https://git-lfs"):
        return "not a PNG or JPEG image but a pointer of Git LFS (`git lfs pull` fetches the image)"
    if start[4:8] == b"jP  " or start.startswith(b"\xffO\xffQ"):
        return "not a PNG or JPEG image but a JPEG 2000 image (convert it to PNG)"
    if start[4:8] == b"ftyp":
        return "not a PNG or JPEG image but a HEIC image or a video (convert it to JPEG or PNG)"
    text = " but text" if start.isascii() and b"\0" not in start else ""
    return f"not a PNG or JPEG image{text} (it starts with {start[: len(_PNG_START)]!r})"


def _other(file: IO[bytes]) -> Header:
    picture = open_other(file)
    bits = _DEEP_MODES.get(picture.mode, 8)
    if picture.format == "TIFF":
        # Pillow reads 16 bits per channel as 8 and reports them in this tag only
        depths = getattr(picture, "tag_v2", {}).get(_BITS_PER_SAMPLE, (bits,))
        bits = max(bits, *((depths,) if isinstance(depths, int) else depths))
    orientation = _known(picture.getexif().get(ExifTags.Base.Orientation))
    height, width = picture.height, picture.width  # of a TIFF already upright
    if picture.format == "TIFF" and orientation > 4:
        height, width = width, height
    return _upright(
        picture.format or "", height, width, len(picture.getbands()), bits, orientation,
        frames=getattr(picture, "n_frames", 1),
    )  # fmt: skip


def _upright(
    kind: str, height: int, width: int, channels: int, bits: int, orientation: int, **more: object
) -> Header:
    if orientation > 4:
        height, width = width, height
    return Header(kind, height, width, channels, bits, orientation=orientation or 1, **more)  # type: ignore[arg-type]


def _exif_orientation(content: bytes) -> int:
    """Orientation in EXIF data; 0 if they have none."""
    exif = Image.Exif()
    try:
        exif.load(content)
    except (
        Exception
    ):  # Pillow raises any class; viewers show a picture with damaged EXIF data as it is stored
        return 0
    return _known(exif.get(ExifTags.Base.Orientation))


def _xmp_orientation(content: bytes) -> int:
    found = _XMP_ORIENTATION.search(content)
    return _known(int(found[1])) if found else 0


def _known(orientation: object) -> int:
    return orientation if isinstance(orientation, int) and orientation in _ORIENTATIONS else 0
