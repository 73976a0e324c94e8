"""Media as foreign data name them: a path, an embedded file, a data address. Nothing outside the root is read."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from sensorium.data.importers.base import clean, suffix_of
from sensorium.data.schema import medium
from sensorium.media.audio import AudioLimits
from sensorium.media.errors import MediaError, describe_bytes
from sensorium.media.image import ImageLimits, too_many_bytes
from sensorium.media.video import VideoLimits

MAX_BYTES = {
    "image": ImageLimits().max_bytes,
    "audio": AudioLimits().max_bytes,
    "video": VideoLimits().max_bytes,
}
# Suffixes of formats that are not read are here too: such a file is a rejected sample and not an overlooked one.
_SUFFIXES = {
    "image": ".png .jpg .jpeg .jpe .jfif .webp .gif .bmp .tif .tiff .heic .heif .avif .svg .ico .psd .jxl .jp2",
    "audio": ".wav .wave .flac .ogg .oga .opus .mp3 .m4a .aac .aif .aiff .aifc .g722 .wma .amr .au .mid",
    "video": ".mp4 .m4v .mov .webm .mkv .avi .mpg .mpeg .wmv .flv .3gp .ogv",
}
KIND_OF_SUFFIX = {suffix: kind for kind, line in _SUFFIXES.items() for suffix in line.split()}

_SIGNATURES: tuple[tuple[bytes, str, tuple[str, ...]], ...] = (
    (b"\x89PNG\r\n\x1a\n", ".png", ("image", "video")),
    (b"\xff\xd8\xff", ".jpg", ("image",)),
    (b"GIF8", ".gif", ("image", "video")),
    (b"BM", ".bmp", ("image",)),
    (b"fLaC", ".flac", ("audio",)),
    (b"OggS", ".ogg", ("audio",)),
    (b"ID3", ".mp3", ("audio",)),
    (b"\x1a\x45\xdf\xa3", ".webm", ("video", "audio")),
)
_EXPECTED = {
    "image": f"a picture in {', '.join(ImageLimits().formats)}",
    "audio": "a sound in WAV, FLAC, OGG, MP3, AAC, M4A, AIFF, G722",
    "video": "a video in MP4, WEBM, or an animated WEBP, GIF, PNG",
}
_STILL_BRANDS = (b"heic", b"heix", b"mif1", b"avif", b"avis")
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


def sniff(data: bytes) -> tuple[str, tuple[str, ...]]:
    """The suffix that fits some bytes and the kinds of media they can be; ("", ()) when they are none."""
    for magic, suffix, kinds in _SIGNATURES:
        if data.startswith(magic):
            return suffix, kinds
    if data[:4] == b"RIFF" and data[8:12] in (b"WEBP", b"WAVE"):
        return (".webp", ("image", "video")) if data[8:12] == b"WEBP" else (".wav", ("audio",))
    if data[:4] == b"FORM" and data[8:12] in (b"AIFF", b"AIFC"):
        return ".aiff", ("audio",)
    if data[4:8] == b"ftyp" and data[8:12] not in _STILL_BRANDS:
        return ".mp4", ("video", "audio")
    # A frame of MPEG sound: eleven set bits, then no field with a forbidden value (ISO 11172-3, 2.4.2.3).
    if len(data) > 4 and data[0] == 0xFF and data[1] & 0xE0 == 0xE0:
        if data[1] & 0xF6 == 0xF0:
            return ".aac", ("audio",)
        if data[1] & 0x18 != 0x08 and data[1] & 0x06 and data[2] >> 4 != 15 and data[2] & 0x0C != 0x0C:
            return ".mp3", ("audio",)
    return "", ()


def checked(kind: str, data: bytes, name: str) -> dict[str, Any]:
    """A medium of a row, once its size and its first bytes are those of its kind; decoding is for `check`.

    Raises:
        MediaError: empty, too large, or not such a medium at all.
    """
    expected = _EXPECTED[kind]
    if not data:
        raise MediaError(name, "is empty (0 bytes)", f"expected {expected}", "write or fetch the file again")
    if len(data) > MAX_BYTES[kind]:
        raise too_many_bytes(name, len(data), MAX_BYTES[kind])
    suffix, kinds = sniff(data)
    if kind not in kinds and not (kind == "audio" and suffix_of(name) == ".g722"):  # which has no signature
        found = describe_bytes(data)
        raise MediaError(name, found, f"expected {expected}", "convert it or choose another file")
    base = clean(PurePosixPath(name.replace("\\", "/")).name)
    return medium(data, base if KIND_OF_SUFFIX.get(suffix_of(base)) else f"{base}{suffix}")


class Files:
    """Reads media by the names that data give them.

    Args:
        root: the folder that relative paths start from and that no path may leave.
        allow_outside: read files outside the root too.
    """

    def __init__(self, root: Path, *, allow_outside: bool = False) -> None:
        self.root, self.allow_outside = root.resolve(), allow_outside

    def read(self, kind: str, reference: Any) -> dict[str, Any]:
        """Return a medium of a row.

        Args:
            kind: "image", "audio" or "video".
            reference: a path, a `data:` address, encoded bytes, or a dictionary with `bytes` and `path`.

        Raises:
            ValueError: the reference names no file that may be read, or the file is no such medium.
            OSError: the file cannot be read.
        """
        if isinstance(reference, Mapping):
            if isinstance(
                reference.get("bytes"), bytes
            ):  # also where they are empty: never another file instead
                return checked(kind, reference["bytes"], reference.get("path") or kind)
            inner = next((reference[k] for k in ("bytes", "path", "url") if reference.get(k)), None)
            if isinstance(inner, bytes):
                return checked(kind, inner, reference.get("path") or kind)
            reference = inner
        if isinstance(reference, bytes):
            return checked(kind, reference, kind)
        if not isinstance(reference, str) or not reference.strip():
            raise ValueError(f"no {kind} is given ({reference!r}); expected a path or the encoded file")
        if reference.startswith("data:"):
            return checked(kind, _decode_data_address(reference), kind)
        if _ADDRESS.match(reference):
            raise ValueError(
                f"{reference} is an address and not a file; nothing is fetched; download the media first, "
                "with img2dataset for example"
            )
        path = self.resolve(reference)
        if (size := path.stat().st_size) > MAX_BYTES[kind]:
            raise too_many_bytes(reference, size, MAX_BYTES[kind])
        return checked(kind, path.read_bytes(), reference)

    def resolve(self, reference: str) -> Path:
        """The file that a path names, links followed; it must be a regular file inside the root."""
        if "\0" in reference:
            raise ValueError(f"{reference!r} is no path; give the name of a file")
        path = self.root / reference
        if "\\" in reference and not path.exists():  # a table made on Windows
            path = self.root / reference.replace("\\", "/")
        path = path.resolve()
        if not self.allow_outside and not path.is_relative_to(self.root):
            raise ValueError(
                f"{reference} lies outside the media root; move it there, or allow it with --allow-outside"
            )
        if not path.is_file():
            found = "is not a file" if path.exists() else "does not exist"
            raise ValueError(f"{reference} {found}; check the path or set --media-root")
        return path


def _decode_data_address(address: str) -> bytes:
    """The bytes in `data:image/png;base64,...` (RFC 2397)."""
    head, comma, body = address.partition(",")
    if not comma or not head.endswith(";base64"):
        raise ValueError(f"{address[:40]}... is no data address in base64; expected data:TYPE;base64,DATA")
    try:
        return base64.b64decode(body, validate=True)
    except binascii.Error as error:
        raise ValueError(f"{head}: the base64 text is damaged ({error}); export it again") from error
