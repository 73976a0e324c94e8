"""A report as one HTML file: pictures and sounds are inside it, so it can be sent and opened anywhere."""

import base64
import html
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image as pillow

from sensorium.evals.cases import Medium
from sensorium.evals.results import Result
from sensorium.evals.runner import Evaluation, Scored
from sensorium.media.audio import SAMPLE_RATE, encode_wav, log_mel, normalize_mel
from sensorium.media.image import encode_png
from sensorium.media.parts import Image, Video

_STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:76rem;margin:2rem auto;padding:0 1rem;color:#1a1a1a;background:#fff}
h1,h2{line-height:1.2}table{border-collapse:collapse;margin:1rem 0}th,td{border:1px solid #999;padding:.35rem .7rem;
text-align:right}th:first-child,td:first-child{text-align:left}caption{text-align:left;font-weight:600;padding:.3rem 0}
.grid{display:flex;flex-wrap:wrap;gap:.8rem}figure{margin:0;width:7.5rem}figure.wide{width:18rem}
figure img{width:100%;image-rendering:pixelated;border:1px solid #ccc}figcaption{font-size:.85rem}
td.bar{text-align:left}img.plot{max-width:100%}.note{color:#444}.scroll{overflow-x:auto}
td{font-variant-numeric:tabular-nums;white-space:pre}th[scope=row]{white-space:nowrap}table{font-size:.92rem}
ul.cases{list-style:none;padding:0;display:grid;grid-template-columns:repeat(auto-fill,minmax(17rem,1fr));gap:1rem}
ul.cases>li{border:1px solid #bbb;border-radius:.4rem;padding:.8rem}ul.cases p{margin:0}ul.cases h3{margin:0 0 .5rem;font-size:1rem;
overflow-wrap:anywhere}ul.cases img{display:block;max-width:100%;min-width:6rem;image-rendering:pixelated}
ul.cases img.sound{width:100%;height:7rem}ul.cases audio{width:100%;margin-top:.3rem}dl{margin:.5rem 0 0;display:grid;grid-template-columns:auto 1fr;gap:.1rem .7rem}
ul.cases .media{display:flex;flex-wrap:wrap;gap:.4rem}ul.cases .media figure{flex:1 1 4.5rem;width:auto;max-width:10rem}
ul.cases .media figure.wide{flex-basis:100%;max-width:none}ul.cases .media figure img{min-width:0}
dt{color:#444}dd{margin:0;overflow-wrap:anywhere}
"""
_BAR = ' class="bar"'
NUM_SHOWN = 12
_MAX_SIDE = 160
_SHARES, _TENTHS = ("", "%", "rate"), ("rank", "dB", "edits")
_MAX_SHOWN_S = 12.0


class Report:
    """Collects sections and writes them as one file."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.parts: list[str] = []

    def heading(self, text: str) -> None:
        """A section heading."""
        self.parts.append(f"<h2>{html.escape(text)}</h2>")

    def text(self, text: str) -> None:
        """A paragraph."""
        self.parts.append(f'<p class="note">{html.escape(text)}</p>')

    def links(self, pages: Iterable[tuple[str, str]]) -> None:
        """(Address, name) of other pages."""
        items = "".join(
            f'<li><a href="{html.escape(address, quote=True)}">{html.escape(name)}</a></li>'
            for address, name in pages
        )
        self.parts.append(f"<ul>{items}</ul>")

    def table(self, caption: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """A table whose first column names the row."""
        head = "".join(f'<th scope="col">{html.escape(cell)}</th>' for cell in header)
        body = "".join(
            f'<tr><th scope="row">{html.escape(row[0])}</th>'
            + "".join(f"<td{_BAR if c.startswith('█') else ''}>{html.escape(c)}</td>" for c in row[1:])
            + "</tr>"
            for row in rows
        )
        # A wide table scrolls by itself; with the keyboard too, which takes a focus and a name.
        self.parts.append(
            f'<div class="scroll" tabindex="0" role="region" aria-label="{html.escape(caption, quote=True)}"><table>'
            f"<caption>{html.escape(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
        )

    def pictures(self, items: Iterable[tuple[bytes, str]]) -> None:
        """PNG pictures with captions."""
        figures = "".join(
            f'<figure><img src="{_data_uri(png, "image/png")}" alt="{html.escape(label, quote=True)}">'
            f"<figcaption>{html.escape(label)}</figcaption></figure>"
            for png, label in items
        )
        self.parts.append(f'<div class="grid">{figures}</div>')

    def sounds(self, items: Iterable[tuple[bytes, bytes, str]]) -> None:
        """(WAV, PNG of its spectrogram, label)."""
        figures = "".join(
            f'<figure class="wide"><img src="{_data_uri(png, "image/png")}" alt="spectrogram of {html.escape(label, quote=True)}">'
            f'<audio controls preload="none" style="width:100%" aria-label="{html.escape(label, quote=True)}" '
            f'src="{_data_uri(wav, "audio/wav")}"></audio><figcaption>{html.escape(label)}</figcaption></figure>'
            for wav, png, label in items
        )
        self.parts.append(f'<div class="grid">{figures}</div>')

    def cases(self, cases: Iterable[Scored]) -> None:
        """Cases with all that they are made of."""
        cards = "".join(
            f"<li><h3>{html.escape(': '.join(filter(None, (case.id, case.verdict))))}</h3>"
            + f'<div class="media">{"".join(_media(case))}</div>'
            + "<dl>"
            + "".join(
                f"<dt>{html.escape(what)}</dt><dd>{html.escape(text) or '(nothing)'}</dd>"
                for what, text in case.lines
            )
            + "</dl></li>"
            for case in cases
        )
        self.parts.append(f'<ul class="cases">{cards}</ul>')

    def plot(self, png: bytes, label: str) -> None:
        """A wide picture."""
        self.parts.append(
            f'<img class="plot" src="{_data_uri(png, "image/png")}" alt="{html.escape(label, quote=True)}">'
        )

    def write(self, path: Path) -> None:
        """The whole page."""
        title = html.escape(self.title)
        path.write_text(
            f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
            f'<meta name="viewport" content="width=device-width,initial-scale=1"><style>{_STYLE}</style></head>'
            f"<body><main><h1>{title}</h1>{''.join(self.parts)}</main></body></html>\n",
            encoding="utf-8",
        )


def write_evaluation(evaluation: Evaluation, path: Path, *, num_shown: int = NUM_SHOWN) -> None:
    """A page of an evaluation: figures beside their baselines, then the worst and the best cases, shown.

    Args:
        num_shown: of each at most; with fewer than twice as many cases, half of them. Cases of the same score come in a
            random order of the seed, not in that of the file.
    """
    about, results = evaluation.about, evaluation.results
    report = Report(f"Evaluation: {about['suite']} of {about['model']} on {about['data']}")
    asked = f"prompt {about['prompt']!r}" if about["prompt"] else "each sample's own prompt"
    report.text(
        f"{about['cases']} samples of the split {about['split']} (hash {about['data_hash']}), weights {about['weights']}, "
        f"seed {about['seed']}, {asked}, compared: {results[0].normalizer}. Brackets hold "
        "95% bootstrap intervals; beside a baseline, of the value minus that baseline's on the same samples."
    )
    for note in about["notes"]:
        report.text(f"Note: {note}.")
    for names in dict.fromkeys(tuple(result.baselines) for result in results):
        rows = [
            (
                r.metric,
                f"{shown_value(r, r.value)}\n{shown_interval(r)}",
                str(r.n),
                *(shown_baseline(r, name, between="\n") for name in names),
            )
            for r in results
            if tuple(r.baselines) == names
        ]
        lower = sorted({r.unit for r in results if tuple(r.baselines) == names and not r.higher_is_better})
        what = "Figures beside their baselines" + (
            f"; of {' and '.join(lower)} lower is better" if lower else ""
        )
        report.table(what, ("metric", "value", "n", *names), rows)
    for table in evaluation.tables:
        report.table(table.caption, table.header, table.rows)
    order = np.random.default_rng(about["seed"]).permutation(len(evaluation.scored))
    ranked = sorted((evaluation.scored[place] for place in order), key=lambda case: case.score)
    num_shown = min(num_shown, -(-len(ranked) // 2))
    report.heading("Worst cases")
    report.cases(ranked[:num_shown])
    report.heading("Best cases")
    report.cases(ranked[num_shown:][::-1][:num_shown])
    report.write(path)


def shown_value(result: Result, value: float) -> str:
    """A value as people read it."""
    if result.unit in _SHARES:
        return f"{value:.1%}"
    return f"{value:.1f}" if result.unit in _TENTHS else f"{value:.3g}"


def shown_baseline(result: Result, name: str, *, between: str = "  ") -> str:
    """A baseline, and how far the value is from it on the same samples."""
    margin = result.margins.get(name)
    if margin is None:
        return shown_value(result, result.baselines[name])
    times, digits = (100, 1) if result.unit in _SHARES else (1, 1 if result.unit in _TENTHS else 3)
    ends = (times * value for value in (margin.estimate, margin.low, margin.high))
    difference, low, high = (f"{round(end, digits) + 0.0:+.{digits}f}" for end in ends)
    return f"{shown_value(result, result.baselines[name])}{between}{difference} [{low}, {high}]"


def spectrogram_png(mel_FM: np.ndarray) -> bytes:
    """A normalised log-mel as a PNG, low notes at the bottom."""
    grey = np.clip((mel_FM.T[::-1] + 2) / 4 * 255, 0, 255).astype(np.uint8)
    return encode_png(np.repeat(np.repeat(grey, 2, axis=0), 4, axis=1)[..., None].repeat(3, axis=2))


def shown_interval(result: Result) -> str:
    """An interval in brackets."""
    interval = result.interval
    if interval is None:
        return "[of the whole set]"
    return f"[{shown_value(result, interval.low)}, {shown_value(result, interval.high)}]"


def _media(case: Scored) -> list[str]:
    """The media of a case as HTML, each with its label."""
    labels = case.labels or ("",) * len(case.media)
    found = []
    for part, label in zip(case.media, labels, strict=True):
        caption = f"<figcaption>{html.escape(label)}</figcaption>" if label else ""
        size = ' class="wide"' if _is_wide(part) else ""
        found.append(f"<figure{size}>{_shown(part, case)}{caption}</figure>")
    return found


def _is_wide(part: Medium) -> bool:
    """A sound, and a strip of frames, take a whole line."""
    return not isinstance(part, Image) or part.pixels().shape[1] > 3 * part.pixels().shape[0]


def _shown(part: Medium, case: Scored) -> str:
    """A medium of a case as HTML."""
    if isinstance(part, Video):
        part = Image(part.frames()[0][0])
    about = html.escape("; ".join(f"{what}: {text}" for what, text in case.lines)[:300], quote=True)
    if isinstance(part, Image):
        small = pillow.fromarray(part.pixels())
        small.thumbnail((_MAX_SIDE * (5 if _is_wide(part) else 1), _MAX_SIDE))
        png = encode_png(np.asarray(small))
        return f'<img src="{_data_uri(png, "image/png")}" alt="picture of the case; {about}">'
    waveform = part.waveform()
    cut = waveform[: int(_MAX_SHOWN_S * SAMPLE_RATE)]
    png = spectrogram_png(normalize_mel(log_mel(cut)))
    length = f"{waveform.size / SAMPLE_RATE:.1f} s"
    if cut.size < waveform.size:
        length = f"the first {_MAX_SHOWN_S:g} s of {length}"
    return (
        f'<img src="{_data_uri(png, "image/png")}" class="sound" alt="spectrogram of the sound; {about}">'
        f'<audio controls preload="none" aria-label="sound of the case; {about}" '
        f'src="{_data_uri(encode_wav(cut), "audio/wav")}"></audio><p>{length}</p>'
    )


def _data_uri(data: bytes, mime: str) -> str:
    return f"data:{mime};base64,{base64.b64encode(data).decode()}"
