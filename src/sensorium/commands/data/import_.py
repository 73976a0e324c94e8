"""``sensorium data import``: shards of whatever lies in a folder, an archive or a table."""

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from sensorium.commands.arguments import parse
from sensorium.data.importers import FORMATS, Options, Progress, choose_format, import_data
from sensorium.interrupt import first_interrupt

_WIDTH = max(map(len, FORMATS))
DESCRIPTION = f"""Make shards of your data: one folder that `sensorium train`, `check`, `show` and `export` read.
A sample that cannot be used is noted with its reason in OUT/rejected.jsonl and does not stop the import. Interrupt it
when you like; the same command goes on. The same input gives the same bytes.

Formats (--format; without it they are told by their content):
{chr(10).join(f"  {name:<{_WIDTH}}  {line}" for name, (_, line) in FORMATS.items())}

Examples:
  sensorium data import photos/ --out data/photos --license CC-BY-4.0 --attribution "Ann Smith"
  sensorium data import clips.csv --out data/clips --columns audio=file,text=words --media-root sounds/
  sensorium data import llava_v1_5.json --out data/llava --media-root images/
  sensorium data import laion/ --out data/laion --format img2dataset --max-bad 0.4
"""
PLAIN_EVERY_S = 10.0


@dataclass(frozen=True, kw_only=True)
class Import:
    """Arguments of ``sensorium data import``."""

    path: Annotated[
        tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="PATH", help_behavior_hint="")
    ] = ()
    """The folder, archive or table."""
    out: Annotated[str, tyro.conf.arg(metavar="FOLDER", help_behavior_hint="(required)")] = ""
    """Where the shards go; must not hold finished shards."""
    format: str = "auto"
    """One of the formats above, or auto."""
    split: str = "auto"
    """train, validation or test for all samples; auto keeps what a column, a folder or a file name states and
    otherwise goes by concept, medium or id."""
    source: Annotated[str, tyro.conf.arg(help_behavior_hint="(default: name of PATH)")] = ""
    """What the data are called."""
    license: str = "unknown"
    """Licence of samples that state none (an SPDX name is best)."""
    attribution: str = "unknown"
    """Whom to credit for samples that state nobody."""
    language: Annotated[str, tyro.conf.arg(help_behavior_hint="")] = ""
    """Language of samples that state none, as in: en."""
    media_root: Annotated[
        str, tyro.conf.arg(metavar="FOLDER", help_behavior_hint="(default: the table's)")
    ] = ""
    """Where paths in tables start; no path may lead out of it."""
    allow_outside: bool = False
    """Read files outside the media root too."""
    columns: Annotated[
        str, tyro.conf.arg(metavar="OURS=THEIRS,...", help_behavior_hint="(default: guessed)")
    ] = ""
    """Columns of a table: image, audio, video, file, text, concept, language, split, license, attribution,
    source, id."""
    encoding: Annotated[str, tyro.conf.arg(help_behavior_hint="(default: by mark, else utf-8)")] = ""
    """How a table was saved, as in: cp1252."""
    concept_folders: bool = False
    """In a folder of media: the name of a file's folder is its concept."""
    allow_burned_in: bool = False
    """Take medical pictures too that may show who the patient is: marked so, ultrasound, screen captures."""
    shard_mb: float = 256
    """A file of shards is closed at this size."""
    max_bad: float = 0.05
    """Exit with 1 if a larger share of the samples was rejected."""
    json: bool = False
    """Print one JSON object at the end."""


def main(arguments: Sequence[str]) -> int:
    """Import and say what came of it."""
    chosen, _ = parse(Import, arguments, verb="data import", description=DESCRIPTION)
    if len(chosen.path) != 1:
        raise ValueError(f"{len(chosen.path)} inputs are given; give one folder, archive or table")
    if not chosen.out:
        raise ValueError("--out is missing; say where the shards go")
    if not 0 <= chosen.max_bad <= 1 or not chosen.shard_mb > 0:
        raise ValueError("--max-bad goes from 0 to 1, and --shard-mb is above 0; change them")
    kept = {f: getattr(chosen, f) for f in Options.__dataclass_fields__ if f != "columns"}
    options = Options(**kept, columns=read_columns(chosen.columns))
    out = Path(chosen.out).expanduser()
    format, found, path = choose_format(Path(chosen.path[0]).expanduser(), chosen.format, options)
    if found:
        print(f"found {found}: --format {format}", file=sys.stderr)
    with progress_bar(f"importing {path.name}") as show:
        try:
            summary = import_data(
                path,
                out,
                format=format,
                options=options,
                shard_bytes=int(chosen.shard_mb * 2**20),
                on_progress=show,
            )
        except KeyboardInterrupt:
            print(f"\ninterrupted; the same command goes on with {out}", file=sys.stderr)
            raise
    for notice in summary.notices:
        print(notice, file=sys.stderr)
    is_bad = summary.bad_rate > chosen.max_bad
    if chosen.json:
        print(json.dumps({"out": str(out), "ok": not is_bad, **asdict(summary)}, ensure_ascii=False))
    else:
        splits = ", ".join(f"{count:,} {split}" for split, count in summary.counts.items() if count)
        print(f"{out}: {summary.num_rows:,} samples ({splits or 'none'}), {summary.num_rejected:,} rejected")
        for example in summary.examples:
            print(f"  rejected {example}")
        if summary.num_rejected > len(summary.examples):
            print(f"  ... all in {out / 'rejected.jsonl'}")
    if is_bad:
        print(
            f"{summary.bad_rate:.1%} of the samples were rejected, --max-bad allows {chosen.max_bad:.1%}; mend "
            f"the data and import them again, or raise it",
            file=sys.stderr,
        )
    return int(is_bad)


def read_columns(text: str) -> dict[str, str]:
    """``image=file,text=caption`` as a dictionary."""
    columns = {}
    for pair in filter(None, (piece.strip() for piece in text.split(","))):
        ours, equals, theirs = pair.partition("=")
        if not equals or not ours.strip() or not theirs.strip():
            raise ValueError(f"--columns {pair!r} cannot be read; write image=COLUMN,text=COLUMN")
        columns[ours.strip()] = theirs.strip()
    return columns


@contextmanager
def progress_bar(title: str) -> Iterator[Callable[[Progress], None]]:
    """A bar with the time left on stderr; a plain line every ten seconds where there is no terminal.

    What it yields raises ``KeyboardInterrupt`` after the sample in which Ctrl-C was pressed.
    """
    with first_interrupt() as interrupted, _shown(title) as show:

        def step(progress: Progress) -> None:
            show(progress)
            if interrupted.is_set():
                raise KeyboardInterrupt

        yield step


@contextmanager
def _shown(title: str) -> Iterator[Callable[[Progress], None]]:
    if not sys.stderr.isatty():
        yield _plain_lines(title)
        return
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns: tuple[Any, ...] = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}% {task.fields[rows]:,} samples, {task.fields[bad]:,} rejected"),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=1.0, rows=0, bad=0)
        yield lambda p: bar.update(task, completed=p.at, rows=p.num_rows, bad=p.num_rejected)


def _plain_lines(title: str) -> Callable[[Progress], None]:
    start = time.monotonic()
    last = [start]

    def show(progress: Progress) -> None:
        now = time.monotonic()
        if now - last[0] < PLAIN_EVERY_S:
            return
        last[0] = now
        left = f", about {(now - start) * (1 / progress.at - 1):,.0f} s left" if progress.at > 0 else ""
        rows = f"{progress.num_rows:,} samples, {progress.num_rejected:,} rejected"
        print(f"{title}: {progress.at:.0%}, {rows}{left}", file=sys.stderr, flush=True)

    return show
