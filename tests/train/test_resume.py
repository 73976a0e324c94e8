"""Ten steps equal five, a kill, and five more; and a run never starts over another."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from sensorium.config import TrainConfig, save_config
from sensorium.pretrained import read_tensors
from sensorium.train.checkpoint import last_checkpoint
from sensorium.train.metrics import MetricsLog, read_metrics
from sensorium.train.trainer import Trainer
from tests.train.run import small_run

ROOT = Path(__file__).parents[2]
TIMES = ("tokens_per_s", "images_per_s", "audio_s_per_s", "mfu", "data_wait_s", "elapsed_s")


def metrics(run: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in line.items() if k not in TIMES} for line in read_metrics(run)]


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("whole")
    Trainer(small_run(data), run).train()
    return run


@pytest.fixture(scope="module")
def whole_by_muon(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("muon")
    Trainer(small_run(data, optimizer="muon"), run).train()
    return run


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_five_steps_a_kill_and_five_more_equal_ten(
    optimizer: str, data: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    whole: Path = request.getfixturevalue("whole" if optimizer == "adamw" else "whole_by_muon")
    run, config = tmp_path / "run", small_run(data, optimizer=optimizer)
    save_config(config, tmp_path / "config.json")
    child = subprocess.run(
        [sys.executable, "-m", "tests.train.run", "kill", tmp_path / "config.json", run],
        check=False,
        cwd=ROOT,
    )
    assert child.returncode == -9
    assert [line["step"] for line in read_metrics(run)] == [1, 2, 3, 4, 5, 6, 7]
    assert last_checkpoint(run) == run / "step-000005"
    Trainer(config, run, resume=True).train()
    assert [line["step"] for line in read_metrics(run)] == list(range(1, 11))
    assert metrics(run) == metrics(whole)
    for name in ("model.safetensors", "training.safetensors"):
        ours, theirs = (read_tensors(folder / "step-000010" / name) for folder in (run, whole))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_another_seed_gives_another_run(data: Path, whole: Path, tmp_path: Path) -> None:
    """Or the comparison above would prove nothing."""
    Trainer(small_run(data, seed=1, num_steps=2), tmp_path).train()
    assert metrics(tmp_path)[1] != metrics(whole)[1]


def test_a_run_leaves_what_it_promises(whole: Path) -> None:
    assert sorted(p.name for p in whole.iterdir()) == [
        "last", "loss.png", "metrics.csv", "metrics.jsonl", "step-000005", "step-000010",
    ]  # fmt: skip
    line = read_metrics(whole)[-1]
    assert {
        "step",
        "loss",
        "loss_text",
        "loss_align",
        "loss_flow_image",
        "loss_flow_audio",
        "lr",
        "grad_norm",
    } <= line.keys()
    assert line["samples_seen"] == 80
    assert len((whole / "metrics.csv").read_text().splitlines()) == 11


def test_resuming_a_finished_run_changes_nothing(data: Path, whole: Path) -> None:
    before = metrics(whole), read_tensors(whole / "step-000010" / "model.safetensors")
    Trainer(small_run(data), whole, resume=True).train()
    assert metrics(whole) == before[0]
    after = read_tensors(whole / "step-000010" / "model.safetensors")
    assert all(torch.equal(after[key], before[1][key]) for key in after)


def test_a_new_run_never_starts_over_another(data: Path, whole: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds the checkpoint step-000010; add --resume"):
        Trainer(small_run(data), whole)
    with pytest.raises(FileNotFoundError, match="there is no checkpoint to resume in"):
        Trainer(small_run(data), tmp_path, resume=True)


def test_a_time_budget_ends_a_run(data: Path, tmp_path: Path) -> None:
    trainer = Trainer(small_run(data, num_steps=10_000, save_every=0, max_train_s=1.0), tmp_path)
    final = trainer.train()
    assert 0 < trainer.step < 10_000
    assert final == tmp_path / f"step-{trainer.step:06d}"
    assert read_metrics(tmp_path)[-1]["lr"] < trainer.config.train.lr / 2  # the schedule did anneal


def test_metrics_are_kept_when_the_log_cannot_be_renewed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}\n{"step": 3, "lo')

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("sensorium.train.metrics.write_file", full)
        with pytest.raises(OSError, match=r"metrics\.jsonl.*free disk space"):
            MetricsLog(tmp_path, 2)
    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 2]
    MetricsLog(tmp_path, 1).write({"step": 2, "loss": 0.5})
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [{"step": 1}, {"step": 2, "loss": 0.5}]


def test_the_trainer_saves_on_its_schedule_and_samples_on_its_own(data: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, str]] = []
    config = small_run(data, num_steps=4, save_every=1, sample_every=2, keep_checkpoints=3)
    Trainer(
        config, tmp_path, sampler=lambda trainer, folder: seen.append((trainer.step, folder.name))
    ).train()
    assert seen == [(2, "step-000002"), (4, "step-000004")]
    assert sorted(p.name for p in tmp_path.glob("step-*")) == ["step-000002", "step-000003", "step-000004"]
    assert dataclasses.asdict(config.train)["keep_checkpoints"] == 3


def test_a_full_disk_while_logging_is_named(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path, 0)
    log.path = Path("/dev/full")
    with pytest.raises(
        OSError, match=r"cannot write /dev/full \(No space left on device\); free disk space and resume"
    ):
        log.write({"step": 1})


@pytest.mark.parametrize("name", ["num_steps", "num_microbatches", "keep_checkpoints", "eval_batches"])
def test_budgets_that_cannot_be_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=rf"train\.{name} is 0; expected 1 or more"):
        TrainConfig(**{name: 0})


def test_no_log_lines_but_the_last(data: Path, tmp_path: Path) -> None:
    Trainer(small_run(data, num_steps=2, log_every=0, save_every=0), tmp_path / "run").train()
    assert [line["step"] for line in read_metrics(tmp_path / "run")] == [1, 2]
