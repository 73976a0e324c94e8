"""Pictures: encoded bytes to RGB pixels and back, judged by their header before anything is decoded."""

import io
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    WebPImagePlugin,
)

from sensorium.media.errors import MediaError, describe_bytes

MIB = 2**20
EXIF_ORIENTATION = 0x0112


@dataclass(frozen=True, kw_only=True)
class ImageLimits:
    """What a picture may cost.

    Args:
        max_pixels: height times width, judged from the header.
        max_bytes: size of the encoded file.
        formats: accepted formats, of PNG, JPEG, WEBP, GIF and BMP.
    """

    max_pixels: int = 40_000_000
    max_bytes: int = 64 * MIB
    formats: tuple[str, ...] = ("PNG", "JPEG", "WEBP", "GIF", "BMP")


DEFAULT_LIMITS = ImageLimits()

# Readers are called by name, not through Image.open: that one guesses among some forty formats and judges the
# size by a process-wide constant, ours is judged by `limits` alone.
_READERS: dict[str, Callable[..., Any]] = {
    "PNG": PngImagePlugin.PngImageFile,
    "JPEG": JpegImagePlugin.JpegImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
}
_MAGIC = ((b"\x89PNG\r\n\x1a\n", "PNG"), (b"\xff\xd8\xff", "JPEG"), (b"GIF8", "GIF"), (b"BM", "BMP"))

# EXIF 2.32, tag 0x0112: how the stored picture must be turned to be upright.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode_image(
    data: bytes,
    *,
    name: str = "image",
    limits: ImageLimits = DEFAULT_LIMITS,
    background: tuple[int, int, int] = (255, 255, 255),
    for_size: tuple[int, int] | None = None,
) -> np.ndarray:
    """Decode the first frame of an encoded picture, upright, in RGB.

    Colour profiles are not applied: values are taken as sRGB.

    Args:
        data: the encoded file.
        name: what errors call it.
        limits: what the picture may cost.
        background: RGB shown through transparent pixels.
        for_size: height and width that the picture will be made to. A JPEG file far larger than that is decoded at a
            half, a quarter or an eighth of its size, at least twice as large as it will be: the same picture to an
            eye, in about half the time.

    Returns:
        uint8 ``[H, W, 3]``.

    Raises:
        MediaError: empty, too large, of another format, truncated or damaged.
    """
    formats = f"expected a picture in {', '.join(limits.formats)}"
    if not data:
        raise MediaError(name, "is empty (0 bytes)", formats, "write or send the file again")
    if len(data) > limits.max_bytes:
        raise too_many_bytes(name, len(data), limits.max_bytes)
    kind = _sniff(data)
    if kind not in limits.formats:
        raise MediaError(name, describe_bytes(data), formats, "convert it or choose another file")
    try:
        if kind == "WEBP":  # its reader allocates the canvas on opening
            _check_size(name, _webp_size(data), limits)
        with _READERS[kind](io.BytesIO(data)) as picture:
            _check_size(name, picture.size, limits)
            if for_size is not None:
                side = 2 * max(for_size)  # of both sides: the picture may be lying on its side
                picture.draft(None, (side, side))
            return to_rgb(picture, background)
    except MediaError:
        raise
    except Exception as error:  # decoders raise anything from SyntaxError to struct.error on damaged files
        raise MediaError(
            name,
            f"is a damaged or truncated {kind} picture ({_reason(error)})",
            "expected one that decodes to its end",
            "fetch or export it again",
        ) from error


@contextmanager
def read_animation(data: bytes, name: str, max_pixels: int) -> Iterator[Image.Image]:
    """An animated WebP, GIF or PNG, opened for its frames; its size is judged before anything is decoded."""
    kind = _sniff(data)
    limits = ImageLimits(max_pixels=max_pixels)
    if kind == "WEBP":  # its reader allocates the canvas on opening
        _check_size(name, _webp_size(data), limits)
    with _READERS[kind](io.BytesIO(data)) as picture:
        _check_size(name, picture.size, limits)
        yield picture


def too_many_bytes(name: str, num_bytes: int, max_bytes: int) -> MediaError:
    """The error for a file over the size limit, for any medium."""
    found = f"holds {num_bytes:,} bytes"
    return MediaError(name, found, f"at most {max_bytes:,} are accepted", "shrink it or raise max_bytes")


def to_rgb(picture: Image.Image, background: tuple[int, int, int] = (255, 255, 255)) -> np.ndarray:
    """Turn any Pillow picture upright, lay it over the background, return uint8 ``[H, W, 3]``."""
    picture.load()
    orientation = picture.getexif().get(EXIF_ORIENTATION)
    transparency = picture.info.get("transparency")
    if picture.mode.startswith(("I", "F")):
        picture = _sixteen_bit(picture, transparency)
    elif transparency is not None or picture.mode in ("LA", "La", "PA", "RGBa"):
        picture = picture.convert("RGBA")
    if orientation in _UPRIGHT:
        picture = picture.transpose(_UPRIGHT[orientation])
    if picture.mode == "RGBA":
        flat = Image.new("RGB", picture.size, background)
        flat.paste(picture, mask=picture.getchannel("A"))
        picture = flat
    return np.array(picture if picture.mode == "RGB" else picture.convert("RGB"), dtype=np.uint8)


def resize_image(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize with antialiasing (bicubic over the whole footprint), ignoring the aspect ratio.

    Args:
        pixels: uint8 ``[H, W, 3]``.
        height: of the result, at least 1.
        width: of the result, at least 1.

    Returns:
        uint8 ``[height, width, 3]``.
    """
    check_pixels(pixels)
    if height < 1 or width < 1:
        raise ValueError(f"cannot resize to {height}x{width} pixels; both must be at least 1")
    resized = Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)
    return np.array(resized, dtype=np.uint8)


def normalize_image(pixels: np.ndarray) -> np.ndarray:
    """Map uint8 ``[H, W, 3]`` to float32 ``[3, H, W]`` in [-1, 1]."""
    check_pixels(pixels)
    planes = np.ascontiguousarray(pixels.transpose(2, 0, 1), dtype=np.float32)
    planes *= np.float32(1 / 127.5)
    planes -= np.float32(1)
    return planes


def denormalize_image(array: np.ndarray) -> np.ndarray:
    """Map float ``[3, H, W]`` to uint8 ``[H, W, 3]``; values outside [-1, 1] are clipped."""
    if array.ndim != 3 or array.shape[0] != 3:
        raise ValueError(f"picture array has shape {array.shape}; expected [3, H, W]; put channels first")
    if not np.isfinite(array).all():
        raise ValueError("picture array holds NaN or infinite values; expected finite ones")
    levels = np.rint((np.clip(array, -1, 1) + 1) * 127.5)
    return np.ascontiguousarray(levels.astype(np.uint8).transpose(1, 2, 0))


def encode_png(pixels: np.ndarray, *, text: Mapping[str, str] | None = None) -> bytes:
    """Encode uint8 ``[H, W, 3]`` as PNG.

    Args:
        pixels: the picture.
        text: text chunks, keyword to value; they mark generated media.
    """
    check_pixels(pixels)
    chunks = PngImagePlugin.PngInfo()
    for keyword, value in (text or {}).items():
        chunks.add_itxt(keyword, value)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", pnginfo=chunks)
    return buffer.getvalue()


def check_pixels(pixels: np.ndarray) -> None:
    """Raise unless this is a non-empty uint8 ``[H, W, 3]``."""
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.size == 0:
        raise ValueError(
            f"pixels are {pixels.dtype} of shape {list(pixels.shape)}; expected non-empty uint8 [H, W, 3]; "
            "scale values to 0..255, channels last"
        )


def _sniff(data: bytes) -> str:
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    return next((kind for magic, kind in _MAGIC if data.startswith(magic)), "")


def _check_size(name: str, size: tuple[int, int], limits: ImageLimits) -> None:
    width, height = size
    if width < 1 or height < 1:
        found = f"measures {width} x {height} pixels"
        raise MediaError(name, found, "expected at least 1 x 1", "export it again")
    if width * height > limits.max_pixels:
        raise MediaError(
            name,
            f"measures {width:,} x {height:,} pixels",
            f"at most {limits.max_pixels:,} in all are accepted",
            "make it smaller or raise max_pixels",
        )


def _webp_size(data: bytes) -> tuple[int, int]:
    """Read width and height from a WebP header (RFC 9649, sections 2.5 to 2.7)."""
    chunk, head = data[12:16], data[20:30]
    if len(head) < 10:
        raise EOFError("the header is cut off")
    if chunk == b"VP8X":
        return int.from_bytes(head[4:7], "little") + 1, int.from_bytes(head[7:10], "little") + 1
    if chunk == b"VP8L":
        bits = int.from_bytes(head[1:5], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if chunk == b"VP8 ":
        width, height = (int.from_bytes(head[i : i + 2], "little") & 0x3FFF for i in (6, 8))
        return width, height
    raise ValueError(f"unknown first chunk {chunk!r}")


def _sixteen_bit(picture: Image.Image, transparency: Any) -> Image.Image:
    """Scale 16-bit grey to 8 bits: Pillow's own conversion clips at 255 and makes nearly everything white."""
    grey = np.asarray(picture)
    if picture.mode == "F" or grey.min() < 0 or grey.max() > 65_535:
        raise ValueError(f"grey values from {grey.min()} to {grey.max()} are not 16-bit")
    scaled = Image.fromarray(((grey.astype(np.uint32) * 255 + 32_767) // 65_535).astype(np.uint8))
    if not isinstance(transparency, int):
        return scaled
    alpha = Image.fromarray(np.where(grey == transparency, 0, 255).astype(np.uint8))
    return Image.merge("RGBA", (scaled, scaled, scaled, alpha))


def _reason(error: Exception) -> str:
    return (str(error) or type(error).__name__).strip().rstrip(".").replace("\n", " ")
