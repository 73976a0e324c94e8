"""The page of `sensorium data check`: one HTML file that shows what was found, without JavaScript."""

from __future__ import annotations

import base64
import html
import io
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sensorium.data.findings import KINDS, MEDIA_NAMES, CheckResult, Finding
from sensorium.data.scan import decode_medium, media_of_row, text_of_row
from sensorium.media.audio import MEL_FLOOR, SAMPLE_RATE, log_mel
from sensorium.media.errors import MediaError

NUM_OFFENDERS = 8
_THUMBNAIL = 160
_PLAYED_S = 5
_STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:66rem;margin:2rem auto;padding:0 1rem;color:#1a1a1a;background:#fff}
h1,h2,h3{line-height:1.2}h2{border-top:1px solid #999;padding-top:1rem;margin-top:2.5rem}
table{border-collapse:collapse;width:100%}th,td{border:1px solid #999;padding:.35rem .7rem;text-align:left;
vertical-align:top}td.number{text-align:right}caption{text-align:left;font-weight:600;padding:.3rem 0}
ul.media{list-style:none;padding:0;display:grid;grid-template-columns:repeat(auto-fill,minmax(10rem,1fr));gap:1rem}
ul.media.wide{grid-template-columns:repeat(auto-fill,minmax(19rem,1fr))}figure{margin:0}
figure img{max-width:100%;max-height:10rem;border:1px solid #767676;background:#fff}audio{width:100%}
.pair{display:flex;gap:.5rem}.pair img{max-width:48%}figcaption{font-size:.875rem;overflow-wrap:anywhere}
pre{white-space:pre-wrap;overflow-wrap:anywhere;background:#f2f2f2;border:1px solid #767676;padding:.4rem;margin:0;
font-size:.8rem}.error{color:#8f0f0f;font-weight:700}.warning{color:#6b4700;font-weight:700}.note{color:#1f4a7a}
"""
# What a page may load: nothing but what is in it. Data that got through the escaping could still do nothing.
_POLICY = "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'"
# Characters that end lines, ring bells or turn the direction of all text behind them.
_UNSEEN = {*range(0x20), *range(0x7F, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A)} - {0x0A}


def write_report(
    path: str | os.PathLike[str], result: CheckResult, paths: Sequence[str], recipe: str
) -> None:
    """Write the page.

    Args:
        path: the HTML file.
        paths: what was checked, as the user named it.
        recipe: its name.
    """
    offenders = {kind: _worst(result.findings[kind]) for kind in result.kinds()}
    numbers = {number for found in offenders.values() for f in found for number in (f.number, f.other)}
    numbers |= {number for places in result.sample.values() for number, _ in places}
    rows = result.rows.fetch([number for number in numbers if number >= 0])
    parts = [
        f"<h1>Data check: {_text(', '.join(paths))}</h1>",
        _summary(result, recipe),
        _table(result),
        *(_sample(kind, places, rows) for kind, places in sorted(result.sample.items())),
        "<h2>Worst offenders</h2>" if offenders else "",
        *(_offenders(result, kind, found, rows) for kind, found in offenders.items()),
    ]
    Path(path).write_text(
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Data check</title>'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<style>{_STYLE}</style></head><body><main>{''.join(parts)}</main></body></html>\n",
        encoding="utf-8",
        errors="replace",
    )


def spectrogram(waveform: np.ndarray) -> Image.Image:
    """Log-mel energies as a picture: time to the right, low tones at the bottom."""
    from matplotlib import colormaps

    mel = log_mel(waveform[: 30 * SAMPLE_RATE])
    # From the floor of the scale to the loudest band there can be.
    level = np.clip((mel.T[::-1] - np.log(MEL_FLOOR)) / (6 - np.log(MEL_FLOOR)), 0, 1)
    colours = (colormaps["magma"](level)[..., :3] * 255).astype(np.uint8)
    return Image.fromarray(colours).resize((300, 100), Image.Resampling.BILINEAR)


def _summary(result: CheckResult, recipe: str) -> str:
    counts = ", ".join(
        f'<span class="{severity}">{result.num(severity):,} {severity}s</span>'
        for severity in ("error", "warning", "note")
    )
    skipped = "".join(f"<p>Not looked for: {_text(what)}</p>" for what in result.skipped)
    return (
        f"<p>{result.num_rows:,} samples in {len(result.rows.files):,} files ({_text(result.media)}), against the recipe "
        f"{_text(recipe)}: {counts}.</p>{skipped}"
    )


def _table(result: CheckResult) -> str:
    if not result.kinds():
        return "<h2>Findings</h2><p>Nothing was found.</p>"
    head = "".join(f'<th scope="col">{name}</th>' for name in ("What", "Severity", "How many", "What to do"))
    body = "".join(
        f'<tr><th scope="row"><a href="#{kind}">{_text(KINDS[kind].meaning)}</a></th>'
        f'<td class="{KINDS[kind].severity}">{KINDS[kind].severity}</td>'
        f'<td class="number">{result.counts[kind]:,}</td><td>{_code(KINDS[kind].mend)}</td></tr>'
        for kind in result.kinds()
    )
    return (
        "<h2>Findings</h2><table><caption>Counts of what was found, the worst first</caption>"
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    )


def _sample(kind: str, places: Sequence[tuple[int, int]], rows: Mapping[int, Mapping[str, Any]]) -> str:
    title = MEDIA_NAMES[kind].capitalize()
    items = []
    # Sounds and videos are heavy: a third of what may be remembered.
    for number, ordinal in sorted(places)[:: 1 if kind == "image" else -(-len(places) // NUM_OFFENDERS)]:
        media = media_of_row(rows.get(number, {}))
        if ordinal < len(media):
            items.append(_figure([media[ordinal]], rows[number], str(rows[number].get("id"))))
    wide = "" if kind == "image" else " wide"
    return (
        f"<h2>{title}, a random few</h2>"
        f'<ul class="media{wide}">{"".join(f"<li>{item}</li>" for item in items)}</ul>'
    )


def _offenders(
    result: CheckResult, kind: str, found: Sequence[Finding], rows: Mapping[int, Mapping[str, Any]]
) -> str:
    about = KINDS[kind]
    items = []
    for finding in found:
        row, other = rows.get(finding.number, {}), rows.get(finding.other, {})
        try:
            media = media_of_row(row)[:2] + media_of_row(other)[:1]
        except (TypeError, AttributeError):  # nulls where lists should be
            media = []
        items.append(_figure(media, row, finding.name, finding.reason))
    more = result.counts[kind] - len(found)
    ending = f"<p>... and {more:,} more.</p>" if more > 0 else ""
    return (
        f'<section><h3 id="{kind}"><span class="{about.severity}">{about.severity}</span>: '
        f"{_text(about.meaning)} ({result.counts[kind]:,})</h3><p>To do: {_code(about.mend)}.</p>"
        f'<ul class="media wide">{"".join(f"<li>{item}</li>" for item in items)}</ul>{ending}</section>'
    )


def _worst(findings: Sequence[Finding]) -> list[Finding]:
    return sorted(findings, key=lambda finding: -finding.measure)[:NUM_OFFENDERS]


def _figure(
    media: Sequence[tuple[str, Mapping[str, Any]]], row: Mapping[str, Any], name: str, reason: str = ""
) -> str:
    try:
        words = _shortened(text_of_row(row))
    except (TypeError, AttributeError):
        words = ""
    shown = "".join(_medium(kind, medium, f"{name}: {words}" if words else name) for kind, medium in media)
    if len(media) > 1:
        shown = f'<div class="pair">{shown}</div>'
    if not media and words:
        shown = f"<pre>{_text(words)}</pre>"
    because = f"<br>{_text(_shortened(reason, 300))}" if reason else f"<br>{_text(words)}"
    return f"<figure>{shown}<figcaption><strong>{_text(_shortened(name))}</strong>{because}</figcaption></figure>"


def _medium(kind: str, medium: Mapping[str, Any], label: str) -> str:
    """A picture, a spectrogram with its sound, a strip of frames; or the first bytes of what does not decode."""
    try:
        plain, _ = decode_medium(kind, medium)
    except MediaError:
        data = medium.get("bytes") or b""
        return f"<pre>{len(data):,} bytes that do not decode as {_text(kind)}: {data[:16].hex(' ') or 'nothing'}</pre>"
    label = _text(_shortened(label))
    if kind == "audio":
        player = f'<audio controls preload="none" aria-label="{label}" src="{_sound(plain)}"></audio>'
        return f'<div><img src="{_picture(spectrogram(plain))}" alt="spectrogram of {label}">{player}</div>'
    if kind == "video":
        chosen = plain[np.linspace(0, len(plain) - 1, min(4, len(plain))).round().astype(int)]
        plain = np.concatenate([np.asarray(_small(Image.fromarray(frame), 96)) for frame in chosen], axis=1)
        return f'<img src="{_picture(Image.fromarray(plain))}" alt="frames of the video {label}">'
    return f'<img src="{_picture(_small(Image.fromarray(plain)))}" alt="picture of {label}">'


def _small(picture: Image.Image, side: int = _THUMBNAIL) -> Image.Image:
    picture.thumbnail((side, side))
    return picture


def _picture(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, format="WEBP", quality=85)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _sound(waveform: np.ndarray) -> str:
    import soundfile

    buffer = io.BytesIO()
    soundfile.write(buffer, waveform[: _PLAYED_S * SAMPLE_RATE], SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return f"data:audio/flac;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _text(value: str) -> str:
    """What stands in data, harmless in a page."""
    return html.escape(value.translate(dict.fromkeys(_UNSEEN, "\ufffd")), quote=True)


def _code(words: str) -> str:
    """Words of ours with code between backticks."""
    return re.sub("`([^`]+)`", r"<code>\1</code>", _text(words))


def _shortened(text: str, length: int = 120) -> str:
    text = " ".join(text.split())
    return text if len(text) <= length else text[: length - 3] + "..."
