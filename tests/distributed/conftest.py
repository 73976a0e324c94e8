import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from sensorium.starter import starter_sources
from tests.train.run import write_data

ROOT = Path(__file__).parents[2]
Launch = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, and the runs that tests compare."""
    made = tmp_path_factory.mktemp("ranks")
    write_data(made)
    pq.write_table(pq.read_table(starter_sources()["wordnet"]).slice(0, 64), made / "words.parquet")
    return made


@pytest.fixture(scope="session")
def launch(folder: Path) -> Launch:
    """Runs a scenario on a number of ranks by ``torchrun``."""

    def start(num_ranks: int, *runs: dict[str, Any], options: tuple[str, ...] = ()) -> Any:
        scenario = folder / f"scenario-{runs[0]['out'].replace('/', '-')}.json"
        scenario.write_text(json.dumps(runs))
        many = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(num_ranks), *options, "-m"]
        return subprocess.run(
            [
                *(sys.executable, "-m", *(many if num_ranks > 1 else [])),
                *("tests.distributed.run", str(scenario), str(folder)),
            ],
            capture_output=True,
            text=True,
            check=False,
            cwd=ROOT,
            timeout=300,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    return start
