"""One function over all rows of some shards: in this process, or on Ray Data.

A unit of work is a row group. Whatever computes it, its result is a small table that is stored under the unit's
number, so the outcome does not depend on the engine, and what was stored before an interruption is not computed
again. A second pass, always in this process and in order, writes the samples. Results and not samples travel
between workers: every worker reads its own row groups, so on a cluster the shards lie on a shared disk.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import shutil
import warnings
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from sensorium.data.schema import SAMPLE_SCHEMA
from sensorium.data.shards import conform, no_parquet
from sensorium.data.splits import SPLITS
from sensorium.data.writer import REJECTED_NAME, SHARD_BYTES, ShardWriter

WORK_NAME = "work"
# What becomes of a row: rejected with a reason, or kept with these additions.
VERDICT_SCHEMA = pa.schema(
    [("reason", pa.string()), ("text", pa.string()), ("metadata", pa.map_(pa.string(), pa.string()))]
)
_OBJECT_STORE_BYTES = 200 * 2**20
_MAX_RETRIES = 3
_MAX_BLOCKS = 1000  # of Ray: a block is what is done again when a worker dies

Function = Callable[[pa.Table], pa.Table]
Progress = Callable[[str, int, int], None]  # what is being done, rows done, rows in all


class Job(Hashable, Protocol):
    """What is computed. It travels to workers, so it is a frozen dataclass of plain values."""

    @property
    def columns(self) -> tuple[str, ...] | None:
        """The columns it needs, all when None."""

    def open(self) -> Function:
        """Load what it needs, once in every worker, and return the function from rows to results."""

    def asked(self) -> dict[str, Any]:
        """What the results depend on besides the rows, as JSON values."""


@dataclass(frozen=True)
class Unit:
    """A row group. ``first`` is the number of its first row among all rows."""

    file: str
    row_group: int
    first: int
    num_rows: int

    def read(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Its rows, as `SAMPLE_SCHEMA` has them.

        Raises:
            ValueError: the file is damaged, or its columns are not those of samples.
        """
        wanted = SAMPLE_SCHEMA
        if columns is not None:
            wanted = pa.schema([SAMPLE_SCHEMA.field(name) for name in columns])
        try:
            with pq.ParquetFile(self.file) as file:
                present = [name for name in wanted.names if name in file.schema_arrow.names]
                table = file.read_row_group(self.row_group, columns=present)
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"{self.file}: row group {self.row_group} cannot be read ({error})") from error
        return conform(table, wanted, self.file)


def find_units(inputs: Sequence[str | os.PathLike[str]]) -> list[Unit]:
    """The row groups of Parquet files and of folders of them, in order: as given, then by name.

    Raises:
        FileNotFoundError: an input is not there or holds no Parquet file.
        ValueError: a file is no Parquet, or is named twice.
    """
    files: list[Path] = []
    for given in map(Path, inputs):
        found = sorted(given.rglob("*.parquet")) if given.is_dir() else [given]
        if not found or not found[0].is_file():
            raise no_parquet(given)
        files += found
    if len({file.resolve() for file in files}) < len(files):
        raise ValueError("a file of shards is named twice; name every folder or file once")
    units: list[Unit] = []
    first = 0
    for file in files:
        try:
            with pq.ParquetFile(file) as parquet:
                sizes = [parquet.metadata.row_group(n).num_rows for n in range(parquet.num_row_groups)]
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"{file}: cannot be read as Parquet ({error}); write it again") from error
        for number, num_rows in enumerate(sizes):
            units.append(Unit(str(file), number, first, num_rows))
            first += num_rows
    return units


def inputs_asked(units: Sequence[Unit]) -> list[list[Any]]:
    """What tells one set of shards from another: names, sizes and numbers of rows."""
    rows: dict[str, int] = {}
    for unit in units:
        rows[unit.file] = rows.get(unit.file, 0) + unit.num_rows
    return [[Path(file).name, os.path.getsize(file), num_rows] for file, num_rows in rows.items()]


def check_out(out: Path, inputs: Sequence[str | os.PathLike[str]]) -> None:
    """Refuse to write into what is read: its files would be read on the next run."""
    for given in inputs:
        folder = Path(given).resolve()
        if out.resolve() == folder or folder in out.resolve().parents:
            raise ValueError(f"{out} lies in {given}, which is read; choose a folder beside it")


class Results:
    """The stored results of the units, in a folder."""

    def __init__(self, folder: Path, units: Sequence[Unit]) -> None:
        self.folder, self.units = folder, units
        folder.mkdir(parents=True, exist_ok=True)

    def path(self, number: int) -> Path:
        """The file of a unit."""
        return self.folder / f"{number:08d}.arrow"

    def read(self, number: int) -> pa.Table:
        """The result of a unit."""
        with pa.OSFile(str(self.path(number)), "rb") as file:
            return pa.ipc.open_file(file).read_all()

    def __iter__(self) -> Iterator[tuple[Unit, pa.Table]]:
        for number, unit in enumerate(self.units):
            yield unit, self.read(number)

    def store(self, number: int, encoded: bytes) -> None:
        """Keep the result of a unit; it is there whole or not at all."""
        partial = self.path(number).with_suffix(".partial")
        partial.write_bytes(encoded)
        os.replace(partial, self.path(number))

    def remove(self) -> None:
        """Delete them all."""
        shutil.rmtree(self.folder)


def compute(
    units: Sequence[Unit],
    job: Job,
    folder: Path,
    *,
    engine: str = "local",
    num_workers: int = 2,
    progress: Progress | None = None,
) -> Results:
    """Run a job over all units and store the results; those in the folder already are kept.

    Args:
        units: from `find_units`.
        job: what to compute.
        folder: where the results go.
        engine: "local" (this process) or "ray" (Ray Data; a worker that dies is replaced and its units are
            computed again).
        num_workers: with "ray", on this machine or on the cluster that RAY_ADDRESS names.
        progress: called after every unit.

    Raises:
        ValueError: an unknown engine, Ray is not installed, or what the job itself raises.
    """
    if engine not in ENGINES:
        raise ValueError(f"unknown engine {engine!r}; known are {', '.join(ENGINES)}")
    results = Results(folder, units)
    waiting = [number for number in range(len(units)) if not results.path(number).is_file()]
    total = sum(unit.num_rows for unit in units)
    done = total - sum(units[number].num_rows for number in waiting)
    if not waiting:
        return results
    for number, encoded in ENGINES[engine](units, waiting, job, num_workers):
        results.store(number, encoded)
        done += units[number].num_rows
        if progress:
            progress("computing", done, total)
    return results


def _encode(unit: Unit, table: pa.Table) -> bytes:
    if table.num_rows != unit.num_rows:
        raise AssertionError(f"{table.num_rows} results for {unit.num_rows} rows of {unit.file}")
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    encoded: bytes = sink.getvalue().to_pybytes()
    return encoded


def _run_local(
    units: Sequence[Unit], waiting: Sequence[int], job: Job, num_workers: int
) -> Iterator[tuple[int, bytes]]:
    function = job.open()
    for number in waiting:
        yield number, _encode(units[number], function(units[number].read(job.columns)))


@functools.lru_cache(maxsize=1)
def _opened(job: Job) -> Function:
    """A job's function, opened once in every process of Ray."""
    return job.open()


def _compute_unit(row: Mapping[str, Any], job: Job) -> dict[str, Any]:
    """One unit, in a process of Ray."""
    unit = Unit(row["file"], row["row_group"], row["first"], row["num_rows"])
    try:
        result = _encode(unit, _opened(job)(unit.read(job.columns)))
    except (ValueError, OSError) as error:
        # As a value: Ray hands an exception of a worker on without what caused it.
        return {"number": row["number"], "result": b"", "error": str(error)}
    return {"number": row["number"], "result": result, "error": ""}


def _run_ray(
    units: Sequence[Unit], waiting: Sequence[int], job: Job, num_workers: int
) -> Iterator[tuple[int, bytes]]:
    ray = _import_ray()
    is_ours = not ray.is_initialized()
    try:
        if is_ours:
            _start_ray(ray, num_workers)
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        rows = [{"number": n, **vars(units[n]), "file": os.path.abspath(units[n].file)} for n in waiting]
        source = ray.data.from_items(rows, override_num_blocks=min(len(rows), _MAX_BLOCKS))
        with warnings.catch_warnings():
            # Ray Data would try a row group that kills every worker for ever; how to say otherwise is changing.
            warnings.filterwarnings("ignore", message="`ray_remote_args_fn` is deprecated")
            dataset = source.map(
                _compute_unit,
                fn_kwargs={"job": job},
                num_cpus=1,
                ray_remote_args_fn=lambda: {"max_retries": _MAX_RETRIES},
                concurrency=min(num_workers, len(rows)),
            )
        for row in dataset.iter_rows():
            if row["error"]:
                raise ValueError(row["error"])
            yield int(row["number"]), row["result"]
    except ray.exceptions.WorkerCrashedError as error:
        raise OSError(
            f"a worker died {_MAX_RETRIES + 1} times at the same row group, most likely for want of memory; "
            "give fewer --workers, or look at the data with `sensorium data check`"
        ) from error
    finally:
        if is_ours:
            ray.shutdown()


def _import_ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray.data
    except ImportError as error:
        raise ValueError(
            "the engine ray needs Ray Data; install it with pip install 'sensorium[cluster]'"
        ) from error
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    return ray


def _start_ray(ray: Any, num_workers: int) -> None:
    quiet = {"logging_level": "ERROR", "log_to_driver": False}
    if os.environ.get("RAY_ADDRESS"):
        ray.init(**quiet)
    else:
        ray.init(
            num_cpus=num_workers, object_store_memory=_OBJECT_STORE_BYTES, include_dashboard=False, **quiet
        )


ENGINES: dict[str, Callable[[Sequence[Unit], Sequence[int], Job, int], Iterator[tuple[int, bytes]]]] = {
    "local": _run_local,
    "ray": _run_ray,
}


def rewrite_shards(
    inputs: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    job: Job,
    *,
    decide: Callable[[Results], Callable[[int], Iterable[Mapping[str, Any]]]] | None = None,
    engine: str = "local",
    num_workers: int = 2,
    shard_bytes: int = SHARD_BYTES,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write the rows of some shards anew, as a job judges them; what is rejected goes to `rejected.jsonl`.

    An interrupted run is continued by the same call, with any engine, and gives the same bytes.

    Args:
        inputs: Parquet files and folders of them.
        out: the folder of the new shards.
        job: its results are verdicts (`VERDICT_SCHEMA`), or what ``decide`` makes verdicts of.
        decide: all results -> a function from the number of a unit to the verdicts on its rows.
        engine, num_workers: see `compute`.
        shard_bytes: size of a file of the output.
        progress: called after every unit of either pass.

    Returns:
        Counts: ``rows``, ``kept``, ``rejected``, ``captioned`` and ``reasons`` (by what stands before the colon).

    Raises:
        FileExistsError: the folder holds finished shards.
        ValueError: it holds the beginning of something else, or an input is damaged.
    """
    out = Path(out)
    check_out(out, inputs)
    units = find_units(inputs)
    asked = {**job.asked(), "inputs": inputs_asked(units)}
    with ShardWriter(out, asked=asked, shard_bytes=shard_bytes) as writer:
        results = compute(
            units, job, out / WORK_NAME, engine=engine, num_workers=num_workers, progress=progress
        )
        verdicts_of = decide(results) if decide else lambda number: results.read(number).to_pylist()
        total = sum(unit.num_rows for unit in units)
        num_captioned = 0
        for number, unit in enumerate(units):
            verdicts = list(verdicts_of(number))
            num_captioned += sum(bool(verdict.get("text")) for verdict in verdicts)
            _write_unit(unit, verdicts, writer)
            if progress:
                progress("writing", unit.first + unit.num_rows, total)
    results.remove()  # only once the manifest stands
    reasons = _count_reasons(out)
    return {
        "rows": total,
        "kept": writer.num_rows,
        "rejected": sum(reasons.values()),
        "captioned": num_captioned,
        "reasons": reasons,
    }


def _write_unit(unit: Unit, verdicts: Sequence[Mapping[str, Any]], writer: ShardWriter) -> None:
    splits = unit.read(["split"])["split"].to_pylist()
    places = [split if split in SPLITS else SPLITS[0] for split in splits]
    if all(writer.is_done(place, unit.first + index) for index, place in enumerate(places)):
        return
    rows = unit.read().to_pylist(maps_as_pydicts="strict")
    for index, (row, place, verdict) in enumerate(zip(rows, places, verdicts, strict=True)):
        ordinal, reason = unit.first + index, verdict.get("reason")
        if not reason:
            if verdict.get("text"):
                row["text"] = verdict["text"]
            if verdict.get("metadata"):
                row["metadata"] = {**(row["metadata"] or {}), **dict(verdict["metadata"])}
            try:
                writer.write(row, ordinal)
            except ValueError as error:
                reason = f"schema: {error}"
        if reason:
            writer.reject(place, ordinal, row["id"], reason)


def _count_reasons(out: Path) -> dict[str, int]:
    counts: dict[str, int] = {}
    path = out / REJECTED_NAME
    if path.is_file():
        with open(path, encoding="utf-8") as file:
            for line in file:
                kind = json.loads(line)["reason"].partition(":")[0]
                counts[kind] = counts.get(kind, 0) + 1
    return dict(sorted(counts.items()))
