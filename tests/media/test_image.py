import io
import pickle
import struct
import zlib

import numpy as np
import pytest
from PIL import Image as pillow

from sensorium.media.errors import MediaError
from sensorium.media.image import (
    ImageLimits,
    decode_image,
    denormalize_image,
    encode_png,
    normalize_image,
    resize_image,
)

from .samples import DOG_PNG, all_pictures, picture_bytes


def png_header(width, height, depth=8, colour=2):
    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")


def webp_header(width, height):
    size = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    body = b"WEBPVP8X" + struct.pack("<I", 10) + b"\0\0\0\0" + size
    return b"RIFF" + struct.pack("<I", len(body)) + body


def forged(kind):
    """A small file whose header claims 20,000 x 20,000 pixels (WebP allows 16,384 at most in its frames)."""
    if kind == "PNG":
        return png_header(20_000, 20_000)
    if kind == "WEBP":
        return webp_header(20_000, 20_000)
    data = bytearray(picture_bytes(kind))
    if kind == "JPEG":
        at = data.index(b"\xff\xc0") + 5
        data[at : at + 4] = struct.pack(">HH", 20_000, 20_000)
    if kind == "GIF":
        data[6:10] = struct.pack("<HH", 20_000, 20_000)
    if kind == "BMP":
        data[18:26] = struct.pack("<ii", 20_000, 20_000)
    return bytes(data)


@pytest.mark.parametrize("name", all_pictures())
def test_every_format_decodes_to_the_same_dog(name):
    want = decode_image(picture_bytes("PNG")).astype(int)
    pixels = decode_image(all_pictures()[name], name=name)
    assert pixels.dtype == np.uint8
    assert pixels.shape == (64, 64, 3)
    exact = name.endswith(("png", "bmp")) or name.startswith("lossless")
    difference = np.abs(pixels.astype(int) - want).mean()
    assert difference == 0 if exact else difference < 8


def test_sixteen_bit_grey_is_scaled_not_clipped():
    ramp = np.linspace(0, 65_535, 256).astype(np.uint16).reshape(16, 16)
    pixels = decode_image(picture_bytes("PNG", pillow.fromarray(ramp)))
    np.testing.assert_allclose(pixels[..., 0].astype(int), ramp / 257, atol=1)
    assert (pixels[..., 0] == pixels[..., 2]).all()


def test_transparency_shows_the_background():
    rgba = np.zeros((2, 3, 4), np.uint8)
    rgba[0] = (255, 0, 0, 255)
    rgba[1, 0] = (0, 0, 0, 128)
    pixels = decode_image(picture_bytes("PNG", pillow.fromarray(rgba)), background=(0, 255, 0))
    assert pixels[0, 0].tolist() == [255, 0, 0]
    assert pixels[1, 0].tolist() == [0, 127, 0]
    assert pixels[1, 1].tolist() == [0, 255, 0]


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_palette_with_transparency(kind):
    indexed = pillow.fromarray(np.array([[0, 1], [2, 0]], np.uint8))
    indexed.putpalette([255, 0, 0, 0, 0, 255, 0, 255, 0])
    pixels = decode_image(picture_bytes(kind, indexed, transparency=1))
    assert pixels.tolist() == [[[255, 0, 0], [255, 255, 255]], [[0, 255, 0], [255, 0, 0]]]


def test_grey_with_transparent_level_eight_and_sixteen_bit():
    for dtype, level in ((np.uint8, 7), (np.uint16, 700)):
        grey = np.array([[0, level]], dtype)
        pixels = decode_image(picture_bytes("PNG", pillow.fromarray(grey), transparency=level))
        assert pixels[0, :, 0].tolist() == [0, 255]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "RGB", "RGBA"])
def test_png_modes_keep_black_and_white(mode):
    picture = pillow.new("L", (4, 2), 255)
    picture.paste(0, (0, 0, 2, 2))
    pixels = decode_image(picture_bytes("PNG", picture.convert(mode)))
    assert pixels[0, :, 1].tolist() == [0, 0, 255, 255]


def test_cmyk_jpeg_keeps_its_colours():
    red = pillow.new("CMYK", (16, 16), (0, 255, 255, 0))
    pixels = decode_image(picture_bytes("JPEG", red))
    np.testing.assert_allclose(pixels[8, 8], (255, 0, 0), atol=6)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_exif_orientation_is_applied(orientation, kind):
    upright = np.zeros((16, 32, 3), np.uint8)
    upright[:8, :8] = (255, 0, 0)
    upright[8:, 24:] = (0, 0, 255)
    turns = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a),
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: np.rot90(a, -1),
    }
    exif = pillow.Exif()
    exif[0x0112] = orientation
    stored = pillow.fromarray(np.ascontiguousarray(turns[orientation](upright)))
    options = {"lossless": True} if kind == "WEBP" else {"quality": 95} if kind == "JPEG" else {}
    pixels = decode_image(picture_bytes(kind, stored, exif=exif, **options))
    assert pixels.shape == upright.shape
    assert np.abs(pixels.astype(int) - upright).mean() < 5


def test_first_frame_of_an_animation():
    frames = [pillow.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    for kind in ("GIF", "WEBP", "PNG"):
        data = picture_bytes(kind, frames[0], save_all=True, append_images=frames[1:])
        assert decode_image(data)[4, 4, 0] > 200


@pytest.mark.parametrize("name", all_pictures())
@pytest.mark.parametrize("keep", [0.3, 0.7])
def test_truncated_pictures_are_refused(name, keep):
    data = all_pictures()[name]
    with pytest.raises(MediaError, match=rf"^{name}: is a damaged or truncated \w+ picture .*; .*; .*again$"):
        decode_image(data[: int(len(data) * keep)], name=name)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
def test_enormous_pictures_are_refused_from_the_header(kind, monkeypatch):
    def decoded(*args):
        raise AssertionError("pixels were decoded")

    data = forged(kind)
    monkeypatch.setattr(pillow.Image, "load", decoded)
    with pytest.raises(MediaError, match="big: measures 20,000 x 20,000 pixels; at most 40,000,000 in all"):
        decode_image(data, name="big")


def test_a_real_picture_of_20000_by_20000():
    data = picture_bytes("PNG", pillow.new("1", (20_000, 20_000)))
    with pytest.raises(MediaError, match="20,000 x 20,000"):
        decode_image(data)


def test_size_limit_is_ours_not_pillows():
    assert decode_image(picture_bytes("PNG", pillow.new("1", (300, 200)))).shape == (200, 300, 3)
    with pytest.raises(MediaError, match="300 x 200"):
        decode_image(
            picture_bytes("PNG", pillow.new("1", (300, 200))), limits=ImageLimits(max_pixels=300 * 200 - 1)
        )
    with pytest.raises(MediaError, match="at most 100 are accepted"):
        decode_image(DOG_PNG, limits=ImageLimits(max_bytes=100))


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"", "is empty (0 bytes)"),
        (b"Hello, this is a note.\n", "is a text file"),
        ("Größe: naïve".encode(), "is a text file"),
        (b"<?xml version='1.0'?><svg xmlns='http://www.w3.org/2000/svg'/>", "is an SVG drawing"),
        (b"II*\x00" + bytes(100), "is a TIFF picture"),
        (b"8BPS\0\1" + bytes(100), "is a Photoshop (PSD) file"),
        (b"%PDF-1.7", "is a PDF document"),
        (b"\0\0\0\x18ftypheic", "is an MP4, HEIC or AVIF file"),
        (b"RIFF\0\0\0\0WAVEfmt ", "is a WAV sound"),
        (bytes(64), "starts with unknown bytes (00 00 00 00 00 00 00 00)"),
    ],
)
def test_other_files_are_named(data, found):
    with pytest.raises(MediaError) as error:
        decode_image(data, name="holiday.jpg")
    message = str(error.value)
    assert message.startswith(f"holiday.jpg: {found}; expected a picture in PNG, JPEG, WEBP, GIF, BMP; ")
    assert "\n" not in message


def test_formats_can_be_narrowed():
    with pytest.raises(MediaError, match="is a GIF picture; expected a picture in PNG;"):
        decode_image(all_pictures()["dog.gif"], limits=ImageLimits(formats=("PNG",)))


def test_error_survives_pickling():
    error = MediaError("a.png", "is empty", "expected a picture", "send it again")
    assert (
        str(pickle.loads(pickle.dumps(error)))
        == str(error)
        == "a.png: is empty; expected a picture; send it again"
    )


def test_normalize_round_trip_is_exact():
    pixels = np.arange(256 * 3, dtype=np.uint16).astype(np.uint8).reshape(16, 16, 3)
    array = normalize_image(pixels)
    assert array.dtype == np.float32
    assert array.shape == (3, 16, 16)
    assert array.min() == -1
    assert array.max() == 1
    np.testing.assert_array_equal(denormalize_image(array), pixels)
    assert denormalize_image(array * 3).max() == 255


def test_bad_arrays_are_refused():
    with pytest.raises(ValueError, match="expected non-empty uint8"):
        normalize_image(np.zeros((4, 4, 3), np.float32))
    with pytest.raises(ValueError, match="expected \\[3, H, W\\]"):
        denormalize_image(np.zeros((4, 4, 3), np.float32))
    with pytest.raises(ValueError, match="NaN"):
        denormalize_image(np.full((3, 4, 4), np.nan, np.float32))
    with pytest.raises(ValueError, match="0x4"):
        resize_image(np.zeros((4, 4, 3), np.uint8), 0, 4)


def test_resize_is_antialiased():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    small = resize_image(stripes, 16, 8)
    assert small.shape == (16, 8, 3)
    assert np.abs(small.astype(int) - 127).max() < 20  # plain subsampling would give 0 or 255


@pytest.mark.parametrize("orientation", [1, 6])
def test_jpeg_is_decoded_no_larger_than_needed(orientation):
    large = pillow.open(io.BytesIO(DOG_PNG)).convert("RGB").resize((640, 480))
    exif = pillow.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    large.save(buffer, "JPEG", quality=90, exif=exif)
    whole = decode_image(buffer.getvalue())
    part = decode_image(buffer.getvalue(), for_size=(64, 48))
    # At least twice 64 x 48, and less than four times.
    assert part.shape == (*(side // 2 for side in whole.shape[:2]), 3)
    difference = resize_image(part, 64, 48).astype(int) - resize_image(whole, 64, 48)
    assert np.abs(difference).mean() < 1
    # One that is hardly larger than needed is read as it is.
    assert decode_image(buffer.getvalue(), for_size=(200, 200)).shape == whole.shape


def test_png_text_is_readable_back():
    pixels = decode_image(DOG_PNG)
    data = encode_png(pixels, text={"Software": "sensorium", "prompt": "un chien à côté"})
    assert pillow.open(io.BytesIO(data)).text == {"Software": "sensorium", "prompt": "un chien à côté"}
    np.testing.assert_array_equal(decode_image(data), pixels)
