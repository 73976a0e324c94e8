"""Real media of the embedded sample, and the import through the command line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sensorium.data.shards import read_shard
from sensorium.starter import load_table

Row = dict[str, Any]


class Imported:
    """What an import left behind: rows by id, the rejected with their reasons, and what was printed."""

    def __init__(self, out: Path, code: int, said: str) -> None:
        self.out, self.code, self.said = out, code, said
        self.summary = json.loads(said.splitlines()[-1]) if said.strip() else {}
        files = sorted(out.glob("*.parquet"))
        rows = [row for file in files for row in read_shard(file).to_pylist(maps_as_pydicts="strict")]
        self.rows: dict[str, Row] = {row["id"]: row for row in rows}
        assert len(self.rows) == len(rows), "ids must be unique"
        lines = (out / "rejected.jsonl").read_text().splitlines() if (out / "rejected.jsonl").exists() else []
        self.rejected = {line["id"]: line["reason"] for line in map(json.loads, lines)}

    def one(self) -> Row:
        (row,) = self.rows.values()
        return row


Import = Callable[..., Imported]


@pytest.fixture
def bring(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Import:
    """`sensorium data import PATH --out ... --json` in this process."""
    from sensorium.cli import main

    def run(path: Path, *options: str, out: str = "shards", max_bad: str = "1") -> Imported:
        folder = tmp_path.parent / f"{tmp_path.name}-{out}"
        line = ["data", "import", str(path), "--out", str(folder), "--json", "--max-bad", max_bad, *options]
        capsys.readouterr()
        code = main(line)
        said = capsys.readouterr()
        assert code in (0, 1), said.err
        return Imported(folder, code, said.out)

    return run


def starter_rows(source: str, count: int) -> list[Row]:
    return load_table(source).slice(0, count).to_pylist(maps_as_pydicts="strict")


@pytest.fixture(scope="session")
def pictures() -> list[Row]:
    return starter_rows("noto", 12)


@pytest.fixture(scope="session")
def sounds() -> list[Row]:
    return starter_rows("scratch", 6)


@pytest.fixture(scope="session")
def questions() -> list[Row]:
    return starter_rows("easy-vqa", 6)
