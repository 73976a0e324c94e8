"""docs/training.md: its commands run on ranks, and what it names is there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from sensorium.commands.train import BUDGET_KEYS
from sensorium.config import DataConfig, TrainConfig
from sensorium.train.metrics import read_metrics

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_command_for_several_devices_runs(tmp_path: Path) -> None:
    """The one that tries it out without GPUs, as written."""
    found = re.search(r"`OMP_NUM_THREADS=1 torchrun ([^`]+)`", PAGE)
    assert found is not None
    words = found[1].split()
    out = words[words.index("--out") + 1]
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", *words],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "on 2 ranks" in done.stdout
    assert done.stdout.count("saved ") == 1  # one rank speaks
    assert len(read_metrics(tmp_path / out)) == 4


def test_every_option_exists() -> None:
    named = {
        (section, key.replace("-", "_")) for section, key in re.findall(r"--(train|data)\.([a-z-]+)", PAGE)
    }
    known = {("train", name) for name in TrainConfig.__dataclass_fields__}
    known |= {("data", name) for name in DataConfig.__dataclass_fields__}
    assert {("train", "num_microbatches"), ("data", "largest_first")} <= named <= known
    assert {f"train.{name}" for name in ("num_microbatches", "shard_size", "eval_every")} <= set(BUDGET_KEYS)


def test_the_example_for_ray_is_valid_and_calls_what_there_is() -> None:
    """Ray itself takes too long to start for a test; the example was run on two workers."""
    import inspect

    from sensorium.train.trainer import Trainer

    (code,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.S)
    compile(code, "docs/training.md", "exec")
    assert "resume" in inspect.signature(Trainer).parameters
