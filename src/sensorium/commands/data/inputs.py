"""What verbs that look at data share: paths as words of the command line, and a bar on standard error."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from sensorium.config import RunConfig
from sensorium.data.scan import ShardFile, find_shards
from sensorium.data.templates import find_template
from sensorium.interrupt import first_interrupt
from sensorium.starter import starter_sources

PATHS = """PATH is a Parquet file, a folder of shards, or starter:NAME (a source of the embedded data), and may
name templates: PATH=TEMPLATE,TEMPLATE. Without any, those of the recipe, or what the form of a row suggests."""
_LINE_EVERY_S = 10.0


def shard_files(words: Sequence[str], config: RunConfig) -> list[ShardFile]:
    """The files that words name, with the templates of their rows.

    Raises:
        ValueError: no word, or an unknown template or source.
        FileNotFoundError: there is no Parquet data.
    """
    if not words:
        raise ValueError("no data are named; give a .parquet file, a folder of them or starter:NAME")
    of_recipe = {source.path: source.templates for source in config.data.sources}
    files: list[ShardFile] = []
    for word in words:
        path, _, names = word.rpartition("=") if "=" in word and not Path(word).exists() else (word, "", "")
        for name in names.split(",") if names else ():
            find_template(name, config.data.templates)
        templates = dict.fromkeys(names.split(","), 1.0) if names else dict(of_recipe.get(path, {}))
        files += _starter(path, templates) if path.startswith("starter:") else find_shards(path, templates)
    twice = {file.path.resolve() for file in files}
    if len(twice) < len(files):
        raise ValueError("a file is named twice; everything in it would be found twice: name each path once")
    return files


def _starter(path: str, templates: dict[str, float]) -> list[ShardFile]:
    known, name = starter_sources(), path.partition(":")[2]
    if name not in known:
        raise ValueError(f"unknown starter source {name!r}; known are {', '.join(sorted(known))}")
    return [ShardFile(path=known[name], name=f"{name}.parquet", group=path, templates=templates)]


@contextmanager
def bar(what: str, total: int) -> Iterator[Callable[[], None]]:
    """A function to call after every row: a bar with the time left, or a line now and then without a terminal.

    It raises ``KeyboardInterrupt`` after the row in which Ctrl-C was pressed.
    """
    with first_interrupt() as interrupted, _progress(what, total) as advance:

        def step() -> None:
            advance()
            if interrupted.is_set():
                raise KeyboardInterrupt

        yield step


@contextmanager
def _progress(what: str, total: int) -> Iterator[Callable[[], None]]:
    if not sys.stderr.isatty():
        yield _lines(what, total)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(what, total=total)
        yield lambda: progress.advance(task)


def _lines(what: str, total: int) -> Callable[[], None]:
    start_s = last_s = time.monotonic()
    done = 0

    def step() -> None:
        nonlocal done, last_s
        done += 1
        now_s = time.monotonic()
        if now_s - last_s >= _LINE_EVERY_S:
            last_s = now_s
            left_s = (now_s - start_s) / done * (total - done)
            print(f"{what}: {done:,} of {total:,} rows, {left_s:.0f} s left", file=sys.stderr, flush=True)

    return step
