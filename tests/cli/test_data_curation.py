"""`sensorium data filter | dedup | embed | caption` as a user types them."""

import hashlib
import json
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from sensorium.data.shards import read_shard, write_shard
from sensorium.starter import load_table
from tests.cli.conftest import COMMAND, ENVIRONMENT, Run, assert_mistake

Here = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Thirty pictures, the first of them twice, the last two without words."""
    rows = load_table("noto").slice(0, 30).to_pylist(maps_as_pydicts="strict")
    rows.append({**rows[0], "id": "again"})
    for row in rows[28:30]:
        row["text"] = None
    write_shard(tmp_path / "data" / "a.parquet", rows)
    return tmp_path / "data"


def rows_in(folder: Path) -> list[dict[str, Any]]:
    files = sorted(folder.glob("*.parquet"))
    return [row for path in files for row in read_shard(path).to_pylist(maps_as_pydicts="strict")]


def test_filter_tells_how_many_were_left_out_for_what(here: Here, shards: Path) -> None:
    done = here("data", "filter", shards, "--out", "kept", "--min-chars", "8", "--json")
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout)
    out = shards.parent / "kept"
    rows = sum(read_shard(path).num_rows for path in out.glob("*.parquet"))
    lines = [json.loads(line) for line in (out / "rejected.jsonl").read_text().splitlines()]
    assert counts["reasons"] == {"characters": len(lines)}
    assert counts["kept"] == rows == 31 - len(lines)
    assert 0 < rows < 31
    done = here("data", "filter", shards, "--out", "kept", "--min-chars", "8")
    assert_mistake(done, "holds finished shards already")


def test_filter_by_alignment(here: Here, shards: Path) -> None:
    rows = rows_in(shards)
    for row, name in zip(rows[:10], [row["text"] for row in rows[10:20]], strict=True):
        row["text"] = name  # another picture's
    write_shard(shards / "a.parquet", rows)
    done = here("data", "filter", shards, "--out", "kept", "--min-alignment", "0.3", "--model", "starter")
    assert done.returncode == 0, done.stderr
    assert "alignment" in done.stdout
    assert "rejected.jsonl" in done.stdout
    kept = rows_in(shards.parent / "kept")
    scored = [row for row in kept if row["text"]]
    assert all(float(row["metadata"]["alignment"]) >= 0.3 for row in scored)
    assert len(kept) == len(scored) + 2
    assert len(scored) < 29


def test_dedup_keeps_the_first(here: Here, shards: Path) -> None:
    for number, options in enumerate(([], ["--near"], ["--exact", "--embedding", "0.999"])):
        done = here("data", "dedup", shards, "--out", f"unique{number}", *options)
        assert done.returncode == 0, done.stderr
        assert "30 of 31 samples" in done.stdout
        line = json.loads((shards.parent / f"unique{number}" / "rejected.jsonl").read_text())
        assert line["id"] == "again"


def test_embed_writes_a_table(here: Here, shards: Path) -> None:
    done = here("data", "embed", shards, "--out", "v.parquet", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["vectors"] == {"image": 31, "text": 29}
    table = pq.read_table(shards.parent / "v.parquet")
    assert table.column_names == ["id", "kind", "vector"]
    assert table.num_rows == 60
    done = here("data", "embed", "starter:sonic-pi", "--out", "vectors", "--model", "starter")
    assert "55 audio, 55 text" in done.stdout
    assert_mistake(here("data", "embed", shards, "--out", "v.parquet"), "v.parquet is there already")


def test_caption_fills_in_words(here: Here, shards: Path, model_folder: Path) -> None:
    done = here(
        "data", "caption", shards, "--out", "told", "--model", model_folder, "--max-tokens", "4", "--json"
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["kept"] == 31
    done = here("data", "caption", shards, "--out", "told2")
    assert "2 texts are new" in done.stdout
    rows = rows_in(shards.parent / "told2")
    assert all(row["text"] for row in rows)
    marks = [row["metadata"] for row in rows if row["metadata"]]
    assert marks == [{"caption_model": "starter", "generated": "true"}] * 2


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (["filter", "data", "--out", "x"], "no limit is given"),
        (["filter", "data", "--min-side", "3"], "--out FOLDER is missing"),
        (["filter", "--out", "x", "--min-side", "3"], "no shards are named"),
        (["filter", "nowhere", "--out", "x", "--min-side", "3"], "no Parquet data at nowhere"),
        (["filter", "data", "--out", "data/x", "--min-side", "3"], "choose a folder beside it"),
        (["filter", "data", "--out", "x", "--min-side", "3", "--model", "m"], "give --min-alignment too"),
        (["filter", "data", "--out", "x", "--min-alignment", "0", "--model", "m"], "no such file"),
        (["filter", "data", "--out", "x", "--min-side", "3", "--engine", "dask"], "known are local, ray"),
        (["dedup", "data", "--out", "x", "--distance", "2"], "belongs to --near"),
        (["dedup", "data", "--out", "x", "--near", "--distance", "9"], "give 0 to 8 bits"),
        (["dedup", "data", "--out", "x", "--embedding", "2"], "up to 1"),
        (["dedup", "data", "--out", "x", "--compare", "sound"], "known are all, media, text"),
        (["dedup", "data", "--out", "x", "--shard-mb", "0"], "--shard-mb 0: give at least 1"),
        (["embed", "starter:nothing", "--out", "x"], "unknown starter source"),
        (["caption", "data", "--out", "x", "--max-tokens", "0"], "give at least 1"),
        (["caption", "data", "--out", "x", "--workers", "0"], "give at least 1"),
    ],
)
def test_mistakes_are_told_in_a_sentence(
    here: Here, shards: Path, arguments: list[str], fragment: str
) -> None:
    assert_mistake(here("data", *arguments), fragment)
    assert not (shards.parent / "x").exists()


@pytest.mark.parametrize("verb", ["filter", "dedup", "embed", "caption"])
def test_help_shows_examples(command: Run, verb: str) -> None:
    done = command("data", verb, "--help")
    assert done.returncode == 0
    assert f"sensorium data {verb}" in done.stdout
    assert "--engine" in done.stdout


@pytest.mark.slow
def test_ctrl_c_is_clean_and_the_same_command_goes_on(tmp_path: Path, command: Run) -> None:
    rows = load_table("easy-vqa").slice(0, 1000).to_pylist(maps_as_pydicts="strict")
    write_shard(tmp_path / "data" / "a.parquet", rows)
    words = ["data", "dedup", "data", "--near", "--out"]
    process = subprocess.Popen(
        [str(COMMAND), *words, "out"], cwd=tmp_path, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True
    )
    until = time.monotonic() + 60
    while not list(tmp_path.glob("out/work/*.arrow")) and time.monotonic() < until:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert said.strip().splitlines()[-1] == "stopped; the same command goes on from here"
    assert "Traceback" not in said
    for out in ("out", "whole"):
        done = command(*words, out)
        assert done.returncode == 0, done.stderr

    def hashes(folder: Path) -> dict[str, str]:
        return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())}

    assert hashes(tmp_path / "out") == hashes(tmp_path / "whole")
