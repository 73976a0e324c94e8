import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sensorium.data.schema import message
from sensorium.starter import starter_sources
from tests.train.run import write_data

ROOT = Path(__file__).parents[2]
Launch = Callable[..., subprocess.CompletedProcess[str]]


def run_module(*words: str, timeout_s: float = 300) -> subprocess.CompletedProcess[str]:
    """``python -m``, of which nothing is left afterwards: ranks end with their launcher."""
    process = subprocess.Popen(
        [sys.executable, "-m", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        out, err = process.communicate(timeout=timeout_s)
    except BaseException:
        process.kill()
        process.communicate()
        raise
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, and the runs that tests compare."""
    made = tmp_path_factory.mktemp("ranks")
    write_data(made)
    pq.write_table(pq.read_table(starter_sources()["wordnet"]).slice(0, 64), made / "words.parquet")
    pictures = pq.read_table(starter_sources()["noto"])
    rows = pictures.slice(0, 16).to_pylist()
    for row, other in zip(rows, rows[1:] + rows[:1], strict=True):
        row |= {"images": [row["image"], other["image"]], "text": None, "names": None}
        row["messages"] = [
            message("user", {"type": "image"}, "next"),
            message("assistant", {"type": "image"}),
        ]
    for row in rows:
        row["image"] = None
    pq.write_table(pa.Table.from_pylist(rows, schema=pictures.schema), made / "edits.parquet")
    said = pq.read_table(starter_sources()["asterisk-en"])
    is_short = pa.compute.less(pa.compute.utf8_length(said["text"]), 12)
    pq.write_table(said.filter(is_short).slice(0, 24), made / "said.parquet")
    return made


@pytest.fixture(scope="session")
def launch(folder: Path) -> Launch:
    """Runs a scenario on a number of ranks by ``torchrun``."""

    def start(num_ranks: int, *runs: dict[str, Any], options: tuple[str, ...] = ()) -> Any:
        scenario = folder / f"scenario-{runs[0]['out'].replace('/', '-')}.json"
        scenario.write_text(json.dumps(runs))
        many = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(num_ranks), *options, "-m"]
        return run_module(
            *(many if num_ranks > 1 else []), "tests.distributed.run", str(scenario), str(folder)
        )

    return start
