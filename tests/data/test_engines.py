"""Functions over shards: the same result from any engine, and after any interruption."""

import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sensorium.commands.data.curating import ModelByName
from sensorium.data.curation import Filter, Limits
from sensorium.data.duplicates import Signatures, find_duplicates
from sensorium.data.engines import (
    VERDICT_SCHEMA,
    WORK_NAME,
    Function,
    compute,
    find_units,
    rewrite_shards,
)
from sensorium.data.schema import table_from_rows
from sensorium.data.shards import read_manifest, read_shard, write_shard
from sensorium.data.vectors import Embed, embed_shards
from sensorium.starter import load_table

SHARD_BYTES = 60_000  # several files even of little data


@dataclass(frozen=True)
class OddOnes:
    """Rejects every sample whose text has an odd number of letters, and marks the others."""

    columns: tuple[str, ...] = ("id", "text")

    def open(self) -> Function:
        return self.judge

    def asked(self) -> dict[str, Any]:
        return {"verb": "odd ones"}

    def judge(self, table: pa.Table) -> pa.Table:
        verdicts = [
            {"reason": f"odd: {len(text)} letters"} if len(text) % 2 else {"metadata": [("even", "true")]}
            for text in table["text"].to_pylist()
        ]
        return pa.Table.from_pylist(verdicts, schema=VERDICT_SCHEMA)


@dataclass(frozen=True)
class Killing:
    """Another job, whose worker is killed at a sample, once."""

    job: Signatures
    sample_id: str
    marker: str

    @property
    def columns(self) -> tuple[str, ...] | None:
        return self.job.columns

    def asked(self) -> dict[str, Any]:
        return self.job.asked()

    def open(self) -> Function:
        function = self.job.open()

        def call(table: pa.Table) -> pa.Table:
            if self.sample_id in table["id"].to_pylist() and not os.path.exists(self.marker):
                Path(self.marker).write_text(str(os.getpid()))
                os.kill(os.getpid(), signal.SIGKILL)
            return function(table)

        return call


@dataclass(frozen=True)
class Unwilling:
    """Cannot be opened."""

    columns: tuple[str, ...] = ("id",)

    def open(self) -> Function:
        raise ValueError("a library is missing; install it")

    def asked(self) -> dict[str, Any]:
        return {}


@dataclass(frozen=True)
class Deadly:
    """Ends every process that it runs in."""

    columns: tuple[str, ...] = ("id",)

    def open(self) -> Function:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError

    def asked(self) -> dict[str, Any]:
        return {}


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five hundred pictures and some of them again, in two files of several row groups."""
    folder = tmp_path_factory.mktemp("shards")
    rows = load_table("noto").to_pylist(maps_as_pydicts="strict")
    write_shard(folder / "a.parquet", rows[:300])
    again = [{**row, "id": f"{row['id']}/again"} for row in rows[10:40]]
    write_shard(folder / "b.parquet", rows[300:] + again)
    return folder


def hashes(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())}


def test_units_are_row_groups_in_order(shards: Path) -> None:
    units = find_units([shards])
    assert [Path(unit.file).name for unit in units] == ["a.parquet"] * 5 + ["b.parquet"] * 4
    assert [unit.first for unit in units] == [0, 64, 128, 192, 256, 300, 364, 428, 492]
    joined = pa.concat_tables([unit.read() for unit in units])
    assert joined.equals(
        pa.concat_tables([read_shard(shards / "a.parquet"), read_shard(shards / "b.parquet")])
    )
    assert units[3].read(["id"]).column_names == ["id"]


def test_what_cannot_be_read_is_told(shards: Path, tmp_path: Path) -> None:
    (tmp_path / "text.parquet").write_text("no Parquet")
    with pytest.raises(FileNotFoundError, match="no Parquet data"):
        find_units([tmp_path / "nowhere"])
    with pytest.raises(ValueError, match="cannot be read as Parquet"):
        find_units([tmp_path])
    with pytest.raises(ValueError, match="named twice"):
        find_units([shards, shards / "a.parquet"])
    with pytest.raises(ValueError, match="choose a folder beside it"):
        rewrite_shards([shards], shards / "out", OddOnes())
    with pytest.raises(ValueError, match="unknown engine 'spark'; known are local, ray"):
        compute(find_units([shards]), OddOnes(), tmp_path / "work", engine="spark")


def test_samples_are_kept_marked_and_rejected(shards: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    counts = rewrite_shards([shards], out, OddOnes(), shard_bytes=SHARD_BYTES)
    assert set(read_manifest(out)["files"]) == {path.name for path in out.glob("*.parquet")}
    kept = pa.concat_tables([read_shard(path) for path in sorted(out.glob("train-*.parquet"))])
    given = pa.concat_tables([unit.read() for unit in find_units([shards])])
    wanted = [
        {**row, "metadata": {"even": "true"}}
        for row in given.to_pylist(maps_as_pydicts="strict")
        if len(row["text"]) % 2 == 0 and row["split"] == "train"
    ]
    assert kept.equals(table_from_rows(wanted))
    num_odd = sum(len(text) % 2 for text in given["text"].to_pylist())
    assert counts["reasons"] == {"odd": num_odd}
    assert (counts["rows"], counts["kept"]) == (540, 540 - num_odd)
    assert not (out / WORK_NAME).exists()


def test_a_sample_that_breaks_the_schema_is_rejected(tmp_path: Path) -> None:
    rows = load_table("noto").slice(0, 3).to_pylist(maps_as_pydicts="strict")
    table = table_from_rows(rows)
    texts, splits = pa.array(["ab", "cd", "ef"]), pa.array(["train", "elsewhere", "train"])
    table = table.set_column(table.schema.get_field_index("text"), "text", texts)
    table = table.set_column(table.schema.get_field_index("split"), table.schema.field("split"), splits)
    (tmp_path / "in").mkdir()
    pq.write_table(table, tmp_path / "in" / "a.parquet")
    counts = rewrite_shards([tmp_path / "in"], tmp_path / "out", OddOnes())
    assert (counts["kept"], counts["reasons"]) == (2, {"schema": 1})


@pytest.mark.parametrize(("phase", "after"), [("computing", 3), ("writing", 2), ("writing", 7)])
def test_an_interrupted_run_goes_on_to_the_same_bytes(
    shards: Path, tmp_path: Path, phase: str, after: int
) -> None:
    class Stop(Exception):
        pass

    calls = {"computing": 0, "writing": 0}

    def stop(what: str, done: int, total: int) -> None:
        calls[what] += 1
        if what == phase and calls[what] == after:
            raise Stop

    whole, out = tmp_path / "whole", tmp_path / "out"
    rewrite_shards([shards], whole, OddOnes(), shard_bytes=SHARD_BYTES)
    with pytest.raises(Stop):
        rewrite_shards([shards], out, OddOnes(), shard_bytes=SHARD_BYTES, progress=stop)
    with pytest.raises(ValueError, match="the beginning of something else"):
        rewrite_shards([shards / "a.parquet"], out, OddOnes(), shard_bytes=SHARD_BYTES)
    finished = set(out.glob("*.parquet"))
    stamps = {path: path.stat().st_mtime_ns for path in finished}
    assert bool(finished) == (phase == "writing")
    again = {"computing": 0, "writing": 0}

    def count(what: str, done: int, total: int) -> None:
        again[what] += 1

    rewrite_shards([shards], out, OddOnes(), shard_bytes=SHARD_BYTES, progress=count)
    assert hashes(out) == hashes(whole)
    assert again["computing"] == 9 - calls["computing"]
    assert {path: path.stat().st_mtime_ns for path in finished} == stamps


KILLED = """
import os, signal, sys
from sensorium.data.duplicates import Signatures, find_duplicates
from sensorium.data.engines import rewrite_shards

def kill(what, done, total):
    if what == sys.argv[4] and done >= int(sys.argv[5]):
        os.kill(os.getpid(), signal.SIGKILL)

job = Signatures(exact=True, near=False)
rewrite_shards([sys.argv[1]], sys.argv[2], job, decide=find_duplicates, engine=sys.argv[3],
               shard_bytes=60_000, progress=kill)
"""


def killed(shards: Path, out: Path, engine: str, phase: str, at_row: int, **environment: str) -> None:
    command = [sys.executable, "-c", KILLED, str(shards), str(out), engine, phase, str(at_row)]
    environment = {**os.environ, **environment}
    done = subprocess.run(command, capture_output=True, timeout=120, check=False, env=environment)
    assert done.returncode == -signal.SIGKILL, done.stderr


def whole_dedup(shards: Path, out: Path) -> dict[str, Any]:
    job = Signatures(exact=True, near=False)
    return rewrite_shards([shards], out, job, decide=find_duplicates, shard_bytes=SHARD_BYTES)


def test_a_killed_process_goes_on_to_the_same_bytes(shards: Path, tmp_path: Path) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert whole_dedup(shards, whole)["reasons"] == {"exact": 30}
    killed(shards, out, "local", "writing", 400)
    assert list(out.glob("*.partial"))
    assert list(out.glob("*.parquet"))
    whole_dedup(shards, out)
    assert hashes(out) == hashes(whole)


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    """Ray with two workers, started once: it takes ten seconds."""
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=2, object_store_memory=200 * 2**20, include_dashboard=False, log_to_driver=False)
    yield ray
    ray.shutdown()


@pytest.mark.slow
def test_ray_gives_the_same_bytes_though_a_worker_is_killed(shards: Path, tmp_path: Path, ray: Any) -> None:
    whole, out, marker = tmp_path / "whole", tmp_path / "out", tmp_path / "killed"
    whole_dedup(shards, whole)
    job = Killing(
        Signatures(exact=True, near=False), read_shard(shards / "a.parquet")["id"][200].as_py(), str(marker)
    )
    rewrite_shards(
        [shards], out, job, decide=find_duplicates, engine="ray", num_workers=2, shard_bytes=SHARD_BYTES
    )
    assert int(marker.read_text()) != os.getpid()
    assert hashes(out) == hashes(whole)


@pytest.mark.slow
def test_ray_gives_the_same_scores_and_vectors_by_a_model(shards: Path, tmp_path: Path, ray: Any) -> None:
    few = tmp_path / "few"
    write_shard(few / "a.parquet", load_table("noto").slice(0, 150).to_pylist(maps_as_pydicts="strict"))
    model = ModelByName.of("starter")
    tables = {}
    for engine in ("local", "ray"):
        limits = Limits(min_alignment=0.4, min_side=8)
        rewrite_shards([few], tmp_path / engine, Filter(limits, model), engine=engine)
        embed_shards([few], tmp_path / f"{engine}.parquet", Embed(model), engine=engine)
        tables[engine] = pq.read_table(tmp_path / f"{engine}.parquet")
    assert hashes(tmp_path / "ray") == hashes(tmp_path / "local")
    assert (tmp_path / "ray" / "rejected.jsonl").is_file()
    ray_table, local_table = tables["ray"], tables["local"]
    assert ray_table.select(["id", "kind"]).equals(local_table.select(["id", "kind"]))
    # Workers of Ray have one thread each, which may change the last bits of a sum.
    vectors = [np.array(table["vector"].to_pylist(), np.float32) for table in (ray_table, local_table)]
    np.testing.assert_allclose(*vectors, atol=1e-6)


@pytest.mark.slow
def test_an_error_in_a_worker_arrives_as_itself(shards: Path, tmp_path: Path, ray: Any) -> None:
    with pytest.raises(ValueError, match="a library is missing; install it"):
        compute(find_units([shards]), Unwilling(), tmp_path / "work", engine="ray")


@pytest.mark.slow
def test_a_row_group_that_kills_every_worker_ends_the_run(shards: Path, tmp_path: Path, ray: Any) -> None:
    with pytest.raises(OSError, match="a worker died 4 times at the same row group"):
        compute(find_units([shards / "a.parquet"])[:1], Deadly(), tmp_path / "work", engine="ray")


@pytest.mark.slow
def test_a_killed_driver_of_ray_goes_on_to_the_same_bytes(shards: Path, tmp_path: Path, ray: Any) -> None:
    """The driver works on a cluster that is there already; the run that goes on starts and ends its own."""
    whole, out = tmp_path / "whole", tmp_path / "out"
    whole_dedup(shards, whole)
    killed(shards, out, "ray", "computing", 250, RAY_ADDRESS=ray.get_runtime_context().gcs_address)
    ray.shutdown()
    stored = sorted((out / WORK_NAME).glob("*.arrow"))
    assert 3 <= len(stored) < 9
    stamps = [path.stat().st_mtime_ns for path in stored]
    seen: list[int] = []

    def look(what: str, done: int, total: int) -> None:
        if what == "computing":
            seen.append(done)
            assert [path.stat().st_mtime_ns for path in stored] == stamps

    job = Signatures(exact=True, near=False)
    rewrite_shards(
        [shards], out, job, decide=find_duplicates, engine="ray", shard_bytes=SHARD_BYTES, progress=look
    )
    assert len(seen) == 9 - len(stored)
    assert hashes(out) == hashes(whole)
    assert not ray.is_initialized()
