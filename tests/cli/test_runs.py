"""``sensorium runs``: what is listed, in which state, and how two runs differ."""

import dataclasses
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from sensorium import recipes
from sensorium.config import save_config
from tests.cli.conftest import Run, assert_mistake


def write_run(run: Path, num_done: int, *, num_steps: int = 40, lr: float = 1e-3, age_s: float = 0.0) -> Path:
    """A run as the trainer leaves it, whose loss is 4 - step * lr."""
    config = recipes.get("nano")
    train = dataclasses.replace(config.train, num_steps=num_steps, lr=lr, max_train_s=0.0)
    run.mkdir(parents=True)
    save_config(dataclasses.replace(config, train=train), run / "resolved.json")
    lines = [
        {
            "step": step,
            "loss": 4 - step * lr,
            "loss_text": 2.0,
            "tokens_seen": 100 * step,
            "samples_seen": 10 * step,
            "tokens_per_s": 50.0,
            "elapsed_s": 2.0 * step,
        }
        for step in range(1, num_done + 1)
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (run / "metrics.jsonl").write_text(text + '{"step": 99, "lo')  # the last line is torn
    for path in run.iterdir():
        os.utime(path, (time.time() - age_s,) * 2)
    return run


def listed(here: Run, *arguments: str | Path) -> dict[str, Any]:
    done = here("runs", *arguments, "--json")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_states(here: Run, tmp_path: Path) -> None:
    write_run(tmp_path / "runs" / "done", 40, age_s=9000)
    write_run(tmp_path / "runs" / "sweep" / "alive", 7)
    write_run(tmp_path / "runs" / "dead", 7, age_s=8000)
    found = {Path(item["run"]).name: item for item in listed(here)["runs"]}
    assert {name: item["state"] for name, item in found.items()} == {
        "done": "finished",
        "dead": "stopped",
        "alive": "running",
    }
    (tmp_path / "runs" / "sweep" / "alive" / "stopped").write_text("KeyboardInterrupt: \n")
    assert {item["state"] for item in listed(here)["runs"]} == {"finished", "stopped"}
    assert list(found) == ["done", "dead", "alive"]  # the oldest first
    assert found["dead"]["losses"]["loss"] == pytest.approx(4 - 4 * 1e-3)
    assert (found["done"]["step"], found["done"]["tokens_seen"], found["done"]["elapsed_s"]) == (
        40,
        4000,
        80.0,
    )


def test_the_table_says_the_same(here: Run, tmp_path: Path) -> None:
    write_run(tmp_path / "runs" / "one", 7, age_s=9000)
    done = here("runs", tmp_path / "runs" / "one")
    for fragment in ("nano", "stopped", "7/40", "700", "0:00:14"):
        assert fragment in done.stdout


def test_two_runs_are_compared_at_equal_steps(here: Run, tmp_path: Path) -> None:
    first = write_run(tmp_path / "a", 40)
    second = write_run(tmp_path / "b", 30, lr=2e-3)
    found = listed(here, first, second, "--out", "compare.png")
    assert found["configuration"] == {"train.lr": [1e-3, 2e-3]}
    assert [line["step"] for line in found["steps"]][-1] == 30
    # The mean of steps 11 to 30.
    assert found["steps"][-1]["loss"] == pytest.approx([4 - 20.5e-3, 4 - 41e-3])
    assert (tmp_path / "compare.png").read_bytes().startswith(b"\x89PNG")
    printed = here("runs", first, second).stdout
    for fragment in ("train.lr", "0.001", "0.002", "3.980 / 3.959"):
        assert fragment in printed


def test_mistakes(here: Run, tmp_path: Path) -> None:
    first = write_run(tmp_path / "a", 3)
    (tmp_path / "empty").mkdir()
    assert_mistake(here("runs", "empty"), "empty holds no run", "--out")
    assert_mistake(here("runs", first, "empty"), "empty is no run")
    assert_mistake(here("runs", first, write_run(tmp_path / "b", 0)), "no step in common")
    assert_mistake(here("runs", first, first, first), "got 3")
    assert_mistake(here("runs", first, "--out", "x.png"), "name both")
    (first / "resolved.json").write_text("{")
    assert_mistake(here("runs", first), "resolved.json is damaged")
