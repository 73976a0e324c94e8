"""Every kind of bad sample: real media of the embedded data, broken in one way each.

``bad_rows()`` are the samples, ``expected_kinds()`` says what `sensorium data check` calls each, ``write_raw`` writes
rows into Parquet without any check.
"""

import functools
import io
import os
import struct
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile
from PIL import Image

from sensorium.data.schema import SAMPLE_SCHEMA, medium, message, row_from_table
from sensorium.starter import load_table

Row = dict[str, Any]


def good_row(sample_id: str, **columns: Any) -> Row:
    """What a sample must state, with some columns of its own."""
    stated = {
        "split": "train",
        "source": "bad",
        "license": "MIT",
        "attribution": "somebody",
        "language": "en",
    }
    return {"id": sample_id, **stated, **columns}


def bad_rows() -> dict[str, Row]:
    """Kind of badness -> a sample that has it. Text of type ``bytes`` is not UTF-8."""
    return {name: row for name, (_, row) in _all().items()}


def expected_kinds() -> dict[str, str]:
    """Kind of badness -> the finding that it is."""
    return {name: kind for name, (kind, _) in _all().items()}


def write_raw(path: str | os.PathLike[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows as they are, broken UTF-8 included."""
    rows = list(rows)
    columns = []
    for column in SAMPLE_SCHEMA:
        values = [row.get(column.name) for row in rows]
        if column.type == pa.string():
            encoded = [value.encode() if isinstance(value, str) else value for value in values]
            columns.append(pa.array(encoded, pa.binary()).view(pa.string()))
        else:
            columns.append(pa.array(values, column.type))
    schema = pa.schema([column.with_nullable(True) for column in SAMPLE_SCHEMA])
    pq.write_table(pa.Table.from_arrays(columns, schema=schema), path, row_group_size=16)


@functools.cache
def _all() -> dict[str, tuple[str, Row]]:
    found: dict[str, tuple[str, Row]] = {}
    for column, suffix_of, cases in (
        ("image", _suffix, _pictures()),
        ("audio", _suffix, _sounds()),
        ("video", _suffix, _videos()),
    ):
        for name, (kind, data) in cases.items():
            value = medium(data, suffix_of(name))
            found[name] = (kind, good_row(f"bad/{name}", text=f"a {column}", **{column: value}))
    for name, (kind, columns) in {**_rows(), **_conversations()}.items():
        found[name] = (kind, good_row(f"bad/{name}") | columns)
    return found


def _suffix(name: str) -> str:
    return f"{name}.{name.split('_')[0]}"


@functools.cache
def picture(kind: str = "WEBP", num_frames: int = 1, **options: Any) -> bytes:
    """An emoji of the embedded data, in one of the formats; or several, as an animation."""
    table = load_table("noto")
    data = [row_from_table(table, index)["image"]["bytes"] for index in range(num_frames)]
    if kind == "WEBP" and num_frames == 1:
        return bytes(data[0])
    frames = [Image.open(io.BytesIO(item)).convert("RGB") for item in data]
    buffer = io.BytesIO()
    if num_frames > 1:
        options |= {"save_all": True, "append_images": frames[1:], "duration": 100}
    frames[0].save(buffer, format=kind, **options)
    return buffer.getvalue()


@functools.cache
def sound() -> bytes:
    """A sound effect of the embedded data: Opus in Ogg."""
    return bytes(row_from_table(load_table("scratch"), 0)["audio"]["bytes"])


@functools.cache
def waveform() -> np.ndarray:
    samples, _ = soundfile.read(io.BytesIO(sound()), dtype="float32")
    return np.ascontiguousarray(samples * np.float32(0.5))


def encoded(samples: np.ndarray, kind: str, subtype: str | None = None, rate: int = 48_000) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=kind, subtype=subtype)
    return buffer.getvalue()


@functools.cache
def clip() -> bytes:
    """Emoji one after another as MP4."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as output:
        stream: Any = output.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        table = load_table("noto")
        for index in range(12):
            pixels = np.asarray(
                Image.open(io.BytesIO(row_from_table(table, index)["image"]["bytes"])).convert("RGB")
            )
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels[:64, :64]), format="rgb24")
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return buffer.getvalue()


def half(data: bytes) -> bytes:
    return data[: len(data) // 2]


def flipped(data: bytes, first: int, seed: int = 0) -> bytes:
    """Forty bytes behind the header with every bit turned."""
    mutated = bytearray(data)
    for at in np.random.default_rng(seed).integers(first, len(data), 40):
        mutated[at] ^= 0xFF
    return bytes(mutated)


def patched(data: bytes, at: int, new: bytes) -> bytes:
    return data[:at] + new + data[at + len(new) :]


def png_of_size(width: int, height: int) -> bytes:
    """The picture with another size in its header, and the checksum that fits."""
    header = b"IHDR" + struct.pack(">II", width, height) + picture("PNG")[24:29]
    return patched(picture("PNG"), 12, header + struct.pack(">I", zlib.crc32(header)))


def wav(
    *, channels: int = 1, rate: int = 48_000, announced: int | None = None, data: bytes | None = None
) -> bytes:
    """The sound as 16-bit WAV with a header that may lie."""
    data = (waveform() * 32_767).astype("<i2").tobytes() if data is None else data
    fmt = struct.pack("<HHIIHH", 1, channels, rate, min(rate * 2, 2**32 - 1), 2 * channels % 65_536, 16)
    size = len(data) if announced is None else announced
    body = b"WAVEfmt " + struct.pack("<I", 16) + fmt + b"data" + struct.pack("<I", size) + data
    return b"RIFF" + struct.pack("<I", len(body)) + body


def archive() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("emoji.webp", picture())
    return buffer.getvalue()


def _pictures() -> dict[str, tuple[str, bytes]]:
    png, jpeg, webp, gif, bmp = (picture(kind) for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP"))
    sof = jpeg.index(b"\xff\xc0") + 5
    svg = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script><circle r="9"/></svg>'
    return {
        "png_empty": ("medium_empty", b""),
        "png_truncated": ("medium_damaged", half(png)),
        "png_header_only": ("medium_damaged", png[:33]),
        "png_flipped": ("medium_damaged", flipped(png, 33)),
        "png_wrong_magic": ("medium_format", b"\x88" + png[1:]),
        "png_zero_size": ("medium_damaged", png_of_size(0, 0)),
        "png_bomb": ("medium_too_large", png_of_size(60_000, 60_000)),
        "png_short_chunk": ("medium_damaged", patched(png, 33, b"\0\0\0\x09")),
        "jpeg_truncated": ("medium_damaged", half(jpeg)),
        "jpeg_header_only": ("medium_damaged", jpeg[:20]),
        "jpeg_noise": ("medium_damaged", jpeg[:3] + np.random.default_rng(1).bytes(500)),
        "jpeg_bomb": ("medium_too_large", patched(jpeg, sof, struct.pack(">HH", 65_500, 65_500))),
        "jpeg_zero_size": ("medium_damaged", patched(jpeg, sof, struct.pack(">HH", 0, 0))),
        "webp_truncated": ("medium_damaged", half(webp)),
        "webp_header_only": ("medium_damaged", webp[:16]),
        "webp_flipped": ("medium_damaged", flipped(webp, 20)),
        "webp_bomb": ("medium_too_large", patched(picture("WEBP", 3), 24, b"\xff\x3f\x00\xff\x3f\x00")),
        "gif_truncated": ("medium_damaged", half(gif)),
        "gif_header_only": ("medium_damaged", gif[:10]),
        "gif_zero_size": (
            "medium_damaged",
            patched(patched(gif, 6, bytes(4)), gif.index(b",\0\0\0\0") + 5, bytes(4)),
        ),
        "gif_bomb": ("medium_too_large", patched(gif, 6, b"\xff\xff\xff\xff")),
        "bmp_truncated": ("medium_damaged", half(bmp)),
        "bmp_bomb": ("medium_too_large", patched(bmp, 18, struct.pack("<ii", 65_000, 65_000))),
        "bmp_wrong_header": ("medium_damaged", patched(bmp, 14, struct.pack("<I", 7))),
        "svg": ("medium_format", svg),
        "pdf": ("medium_format", b"%PDF-1.7\n" + webp),
        "html": ("medium_format", b"<!doctype html><title>404</title><script>alert(1)</script>"),
        "zip": ("medium_format", archive()),
        "exe": ("medium_format", b"MZ\x90\x00\x03\x00" + webp),
        "tiff_in_image": ("medium_format", b"II*\x00" + png),
        "noise": ("medium_format", np.random.default_rng(2).bytes(2000)),
        "zeros": ("medium_format", bytes(2000)),
        "ogg_in_image": ("medium_format", sound()),
        "mp4_in_image": ("medium_format", clip()),
        "blank": ("blank", _encode_picture(np.full((64, 64, 3), 255, np.uint8))),
        "one_pixel": ("small", _encode_picture(np.array([[[0, 0, 0]], [[255, 0, 0]]], np.uint8))),
        "ribbon": ("aspect", _encode_picture(np.arange(16 * 1000 * 3, dtype=np.uint8).reshape(16, 1000, 3))),
    }


def _encode_picture(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def _sounds() -> dict[str, tuple[str, bytes]]:
    flac, mp3 = encoded(waveform(), "FLAC"), encoded(waveform(), "MP3", rate=48_000)
    odd = waveform().copy()
    odd[100] = np.nan
    infinite = np.where(np.isnan(odd), np.inf, odd).astype(np.float32)
    no_data = wav()[:36]
    return {
        "ogg_empty": ("medium_empty", b""),
        "ogg_truncated": ("medium_damaged", half(sound())),
        "ogg_header_only": ("medium_damaged", sound()[:40]),
        "ogg_wrong_magic": ("medium_format", b"oGGs" + sound()[4:]),
        "ogg_without_end": ("medium_damaged", sound()[: sound().rindex(b"OggS")]),
        "flac_truncated": ("medium_damaged", half(flac)),
        "flac_header_only": ("medium_damaged", flac[:42]),
        "flac_flipped": ("medium_damaged", flipped(flac, 120)),
        "wav_truncated": ("medium_damaged", half(wav())),
        "wav_too_large_size": ("medium_damaged", wav(announced=1_000_000)),
        "wav_without_data": ("medium_damaged", no_data),
        "wav_no_samples": ("medium_empty", wav(data=b"")),
        "wav_nan": ("medium_values", encoded(odd, "WAV", "FLOAT")),
        "wav_infinite": ("medium_values", encoded(infinite, "WAV", "FLOAT")),
        "wav_not_scaled": ("medium_values", encoded(waveform() * 32_768, "WAV", "FLOAT")),
        "wav_no_channels": ("medium_header", wav(channels=0)),
        "wav_300_channels": ("medium_header", wav(channels=300)),
        "wav_rate_zero": ("medium_header", wav(rate=0)),
        "wav_rate_huge": ("medium_header", wav(rate=2_000_000_000)),
        "wav_one_sample": ("short", wav(data=b"\x10\x20")),
        "wav_silent": ("silent", wav(data=bytes(48_000))),
        "wav_clipped": ("clipped", encoded(np.sign(waveform()[:48_000]) * 0.9999, "WAV", "PCM_16")),
        "flac_too_long": ("medium_too_large", encoded(np.zeros(601 * 8000, np.int16), "FLAC", rate=8000)),
        "flac_too_long_for_a_row": ("too_long", encoded(np.resize(waveform(), 10 * 48_000), "FLAC")),
        "mp3_header_only": ("medium_damaged", b"ID3\x04\x00\x00\x00\x00\x00\x00"),
        "mp3_noise": ("medium_damaged", mp3[:2] + np.random.default_rng(3).bytes(3000)),
        "m4a_truncated": ("medium_damaged", half(clip())),
        "png_in_audio": ("medium_format", picture("PNG")),
        "webp_in_audio": ("medium_format", picture()),
        "text_in_audio": ("medium_format", b"meow"),
        "midi": ("medium_format", b"MThd\x00\x00\x00\x06\x00\x01\x00\x01\x00\x60"),
        "playlist": ("medium_format", b"#EXTM3U\nfile:///etc/passwd\n"),
    }


def _videos() -> dict[str, tuple[str, bytes]]:
    return {
        "mp4_empty": ("medium_empty", b""),
        "mp4_truncated": ("medium_damaged", half(clip())),
        "mp4_header_only": ("medium_damaged", clip()[:32]),
        "txt_as_video": ("medium_format", b"a cat jumps"),
        "ogg_as_video": ("medium_format", sound()),
        "gif_animation_truncated": ("medium_damaged", half(picture("GIF", 4))),
        "webp_animation_truncated": ("medium_damaged", half(picture("WEBP", 4))),
        "webp_animation_bomb": (
            "medium_too_large",
            patched(picture("WEBP", 3), 24, b"\xff\xff\x00\xff\xff\x00"),
        ),
    }


def _rows() -> dict[str, tuple[str, Row]]:
    good = {"image": medium(picture(), "emoji.webp"), "text": "video game"}
    nan = float("nan")
    return {
        "null_medium": ("schema", {"text": "x", "image": {"bytes": None, "path": None}}),
        "path_only": ("medium_empty", {"text": "x", "image": {"bytes": None, "path": "photos/1.png"}}),
        "path_escapes": (
            "medium_empty",
            {"text": "x", "image": {"bytes": None, "path": "../../../etc/passwd"}},
        ),
        "id_empty": ("schema", good | {"id": ""}),
        "id_null": ("schema", good | {"id": None}),
        "split_unknown": ("schema", good | {"split": "dev"}),
        "split_null": ("schema", good | {"split": None}),
        "source_empty": ("schema", good | {"source": ""}),
        "license_empty": ("schema", good | {"license": ""}),
        "attribution_null": ("schema", good | {"attribution": None}),
        "neither_form": ("schema", {}),
        "both_forms": ("schema", good | {"messages": [message("user", "hello")]}),
        "lists_in_short_form": ("schema", good | {"images": [medium(picture(), "emoji.webp")]}),
        "text_empty": ("no_text", {"text": ""}),
        "text_of_a_million": ("too_long", {"text": "a red car " * 100_000}),
        "text_not_utf8": ("schema", {"text": b"caf\xe9 \xff\xfe"}),
        "id_not_utf8": ("schema", good | {"id": b"bad/\xff\xfe"}),
        "names_twice": ("schema", good | {"names": [("en", "car"), ("en", "dog")]}),
        "segments_out_of_order": ("schema", good | {"segments": _segments((3.0, 4.0), (1.0, 2.0))}),
        "segments_reversed": ("schema", good | {"segments": _segments((3.0, 1.0))}),
        "segments_nan": ("schema", good | {"segments": _segments((nan, nan))}),
        "segments_negative": ("schema", good | {"segments": _segments((-1.0, 1.0))}),
        "segments_endless": ("schema", good | {"segments": _segments((0.0, float("inf")))}),
        "segments_without_times": ("schema", good | {"segments": _segments((None, None))}),
        "segments_null": ("schema", good | {"segments": [None]}),
        "license_unknown": ("license", good | {"license": "unknown"}),
        "wrong_language": (
            "language",
            {"text": "Der Hund läuft schnell durch den grünen Wald.", "language": "en"},
        ),
    }


def _segments(*times: tuple[float | None, float | None]) -> list[dict[str, Any]]:
    return [{"start_s": start, "end_s": end, "text": "a word"} for start, end in times]


def _conversations() -> dict[str, tuple[str, Row]]:
    image, one = {"type": "image"}, [medium(picture(), "emoji.webp")]
    asked, answer = message("user", image, "what is this?"), message("assistant", "a video game")
    turns = [asked, answer]
    return {
        "more_placeholders": (
            "placeholders",
            {"messages": [message("user", image, image), answer], "images": one},
        ),
        "fewer_placeholders": ("placeholders", {"messages": turns, "images": one * 3}),
        "no_media_for_placeholder": ("placeholders", {"messages": turns}),
        "media_of_another_kind": ("placeholders", {"messages": turns, "audios": [medium(sound(), "a.ogg")]}),
        "damaged_in_a_list": (
            "medium_damaged",
            {"messages": turns, "images": [medium(half(picture()), "1.webp")]},
        ),
        "null_in_a_list": ("schema", {"messages": turns, "images": [None]}),
        "role_unknown": ("schema", {"messages": [message("robot", "hello")]}),
        "role_null": ("schema", {"messages": [{"role": None, "content": asked["content"]}], "images": one}),
        "part_unknown": ("schema", {"messages": [message("user", {"type": "smell"})]}),
        "part_null": ("schema", {"messages": [{"role": "user", "content": [None]}]}),
        "part_without_text": ("schema", {"messages": [message("user", {"type": "text"}), answer]}),
        "content_null": ("schema", {"messages": [{"role": "user", "content": None}]}),
        "content_empty": ("schema", {"messages": [{"role": "user", "content": []}]}),
        "message_null": ("schema", {"messages": [None]}),
        "messages_empty": ("schema", {"messages": []}),
        "answer_empty": (
            "schema",
            {"messages": [message("user", "hello"), {"role": "assistant", "content": []}]},
        ),
        "messages_too_long": ("too_long", {"messages": [message("user", "tell me more " * 5000), answer]}),
    }
