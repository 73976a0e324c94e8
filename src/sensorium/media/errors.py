"""The one error of this room."""


class MediaError(ValueError):
    """A medium that cannot be read, as one sentence for the person who handed it in.

    Args:
        name: what the person calls the thing, usually the file name.
        found: what is there ("is cut off after 1,024 of 4,096 bytes").
        expected: what should have been there.
        mend: what to do about it.
    """

    # All four go to the base class, so that the error survives pickling out of a worker process.
    def __init__(self, name: str, found: str, expected: str, mend: str) -> None:
        super().__init__(name, found, expected, mend)

    def __str__(self) -> str:
        name, found, expected, mend = self.args
        return f"{name}: {found}; {expected}; {mend}"


def describe_bytes(data: bytes) -> str:
    """Say in a few words what some bytes seem to be, for an error about a wrong kind of file."""
    if not data:
        return "is empty (0 bytes)"
    known = next((kind for magic, kind in _KNOWN_MAGIC if data.startswith(magic)), None)
    if known is None and data[4:8] == b"ftyp":
        known = "an MP4, HEIC or AVIF file"
    if known is None and data.startswith(b"RIFF"):
        known = {b"WEBP": "a WebP picture", b"WAVE": "a WAV sound"}.get(data[8:12], "another RIFF file")
    if known is None and (b"<svg" in data[:4096] or data.lstrip()[:4].lower() == b"<svg"):
        known = "an SVG drawing"
    if known is None and _is_text(data[:4096]):
        known = "a text file"
    return f"is {known}" if known else f"starts with unknown bytes ({data[:8].hex(' ')})"


def _is_text(head: bytes) -> bool:
    try:
        # A character may be cut at the end of the head.
        text = head.decode("utf-8", errors="strict" if len(head) < 4096 else "ignore")
    except UnicodeDecodeError:
        return False
    return all(char.isprintable() or char in "\r\n\t\f\ufeff" for char in text)


_KNOWN_MAGIC = (
    (b"\x89PNG\r\n\x1a\n", "a PNG picture"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"GIF8", "a GIF picture"),
    (b"BM", "a BMP picture"),
    (b"II*\x00", "a TIFF picture"),
    (b"MM\x00*", "a TIFF picture"),
    (b"8BPS", "a Photoshop (PSD) file"),
    (b"%PDF", "a PDF document"),
    (b"%!PS", "a PostScript document"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"\x00\x00\x01\x00", "a Windows icon (ICO)"),
    (b"fLaC", "a FLAC sound"),
    (b"OggS", "an Ogg file"),
    (b"FORM", "an IFF or AIFF file"),
    (b"ID3", "an MP3 sound"),
    (b"\x1a\x45\xdf\xa3", "a Matroska or WebM file"),
    (b"#EXTM3U", "a playlist (M3U)"),
)
