"""A report as one HTML file: pictures and sounds are inside it, so it can be sent and opened anywhere."""

import base64
import html
from collections.abc import Iterable, Sequence
from pathlib import Path

_STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem;color:#1a1a1a;background:#fff}
h1,h2{line-height:1.2}table{border-collapse:collapse;margin:1rem 0}th,td{border:1px solid #999;padding:.35rem .7rem;
text-align:right}th:first-child,td:first-child{text-align:left}caption{text-align:left;font-weight:600;padding:.3rem 0}
.grid{display:flex;flex-wrap:wrap;gap:.8rem}figure{margin:0;width:7.5rem}figure.wide{width:18rem}
figure img{width:100%;image-rendering:pixelated;border:1px solid #ccc}figcaption{font-size:.85rem}
img.plot{max-width:100%}.note{color:#444}
"""


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

    def table(self, caption: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """A table whose first column names the row."""
        head = "".join(f'<th scope="col">{html.escape(cell)}</th>' for cell in header)
        body = "".join(
            f'<tr><th scope="row">{html.escape(row[0])}</th>'
            + "".join(f"<td>{html.escape(c)}</td>" for c in row[1:])
            + "</tr>"
            for row in rows
        )
        self.parts.append(
            f"<table><caption>{html.escape(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
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


def _data_uri(data: bytes, mime: str) -> str:
    return f"data:{mime};base64,{base64.b64encode(data).decode()}"
