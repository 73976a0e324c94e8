"""What goes wrong costs nothing: kills at any moment, signals, losses that are no number, memory that runs out."""

import dataclasses
import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sensorium.config import save_config
from sensorium.generate.interface import load
from sensorium.pretrained import read_tensors
from sensorium.train.checkpoint import last_checkpoint
from sensorium.train.metrics import read_metrics
from sensorium.train.trainer import Trainer
from tests.train.run import small_run
from tests.train.test_resume import metrics

ROOT = Path(__file__).parents[2]
NUM_KILLS = 12


@pytest.mark.slow
def test_a_run_killed_anywhere_ends_as_if_it_were_not(data: Path, tmp_path: Path) -> None:
    """Twelve random operations on the run's files, most of them inside a save, half-written files among them."""
    save_config(small_run(data, num_steps=6, save_every=2), tmp_path / "config.json")
    command = [sys.executable, "-m", "tests.train.kills", tmp_path / "config.json", tmp_path, str(NUM_KILLS)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    points = json.loads(done.stdout)["points"]
    assert len(points) == NUM_KILLS
    for index, point in enumerate(points):
        run = tmp_path / f"killed-{index}"
        assert metrics(run) == metrics(tmp_path / "whole"), point
        assert sorted(p.name for p in run.iterdir()) == sorted(p.name for p in (tmp_path / "whole").iterdir())
        for name in ("model.safetensors", "training.safetensors"):
            ours, theirs = (read_tensors(r / "step-000006" / name) for r in (run, tmp_path / "whole"))
            assert all(torch.equal(ours[key], theirs[key]) for key in ours | theirs), point


TWICE = """
import signal, sys, time
from sensorium.interrupt import first_interrupt
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
with first_interrupt(signal.SIGINT, signal.SIGTERM) as interrupted:
    signal.raise_signal(signal.SIGTERM)
    assert interrupted.is_set() and interrupted.number == signal.SIGTERM
    print("still here", flush=True)
    signal.raise_signal(getattr(signal, sys.argv[1]))
    time.sleep(5)
    print("too long")
"""


@pytest.mark.parametrize("second", ["SIGTERM", "SIGINT"])
def test_a_second_signal_ends_at_once(second: str) -> None:
    done = subprocess.run([sys.executable, "-c", TWICE, second], capture_output=True, text=True, check=False)
    assert done.returncode == -getattr(signal, second)
    assert done.stdout == "still here\n"


def test_what_torchrun_passes_on_is_no_second_signal() -> None:
    """It sends every worker what the terminal has sent them already."""
    code = TWICE.replace("time.sleep(5)", "sys.exit()")
    environment = {**os.environ, "TORCHELASTIC_RUN_ID": "none"}
    done = subprocess.run(
        [sys.executable, "-c", code, "SIGTERM"], capture_output=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr


def poison(trainer: Trainer) -> None:
    with torch.no_grad():
        trainer.model.norm.weight[0] = torch.nan


def test_a_loss_that_is_no_number_stops_the_run_before_the_step(data: Path, tmp_path: Path) -> None:
    trainer = Trainer(small_run(data, save_every=1), tmp_path)
    trainer.train_step([trainer.loader.batch(0)])
    trainer.save()
    poison(trainer)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    with pytest.raises(
        ValueError, match=r"step 2: the loss is nan .*described in .*step-000002.*last good .*step-000001"
    ):
        trainer.train()
    for name, value in trainer.model.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0, equal_nan=True)
    assert [p.name for p in tmp_path.glob("step-*")] == ["step-000001"]
    assert [line["step"] for line in read_metrics(tmp_path)] == [1]
    report = json.loads((tmp_path / "failed-step-000002" / "rank-0.json").read_text())
    assert report["values"]["loss"] == "nan"
    assert report["versions"]["torch"] == torch.__version__
    assert "embed_tokens.weight" in report["gradients_not_finite"]
    named = [document["sample"] for document in report["batches"][0]["documents"]]
    assert set(named) == set(trainer.loader.sample_ids(1))
    assert report["batches"][0]["media"]["context image"]["finite"] is True
    Trainer(small_run(data, save_every=1), tmp_path, resume=True).train()  # the last good checkpoint is one
    assert all(math.isfinite(line["loss"]) for line in read_metrics(tmp_path))


def test_on_a_gpu_it_is_found_before_anything_is_saved(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where numbers stay on the device until they are logged."""
    monkeypatch.setattr(Trainer, "_is_deferred", True)
    trainer = Trainer(small_run(data, save_every=3), tmp_path)
    real, seen = trainer.write_metrics, []
    monkeypatch.setattr(trainer, "write_metrics", lambda: (seen.append(trainer.step), real()))
    for step in range(2):
        trainer.train_step([trainer.loader.batch(step)])
    assert isinstance(trainer.pending[0][0]["loss"], torch.Tensor)
    poison(trainer)
    with pytest.raises(
        ValueError, match=r"step 3: the loss is nan .*there is no earlier|step 3: the loss is nan"
    ):
        trainer.train()
    assert (tmp_path / "failed-step-000003").is_dir()
    assert last_checkpoint(tmp_path) is None
    assert seen == [3]


def allocate(*_: object, **__: object) -> None:
    torch.empty(2**48)


def run_out(kind: type[BaseException]) -> Callable[..., None]:
    def fail(*_: object, **__: object) -> None:
        raise kind("out of memory")

    return fail


@pytest.mark.parametrize("fail", [allocate, run_out(torch.OutOfMemoryError), run_out(MemoryError)])
def test_out_of_memory_names_the_batch_and_what_to_lower(
    fail: Callable[..., None], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Trainer(small_run(data), tmp_path)
    monkeypatch.setattr(trainer.model, "trunk", fail)
    batch = trainer.loader.batch(0)
    lengths = torch.bincount(batch.doc_id_BT[batch.doc_id_BT >= 0].flatten()).tolist()
    longest = batch.sample_ids[max(range(len(lengths)), key=lengths.__getitem__)]
    with pytest.raises(OSError, match="out of memory in step 1") as raised:
        trainer.train()
    for fragment in (
        f"{batch.token_ids_BT.shape[0]} rows of 96 tokens",
        f"{longest} ({max(lengths)} tokens)",
        "train.num_microbatches (now 1",
        "train.activation_checkpointing (now off",
        "data.samples_per_step (now 8)",
    ):
        assert fragment in str(raised.value)


def test_other_errors_stay_themselves(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = Trainer(small_run(data), tmp_path)
    monkeypatch.setattr(trainer.model, "trunk", run_out(RuntimeError))
    with pytest.raises(RuntimeError, match=r"^out of memory$"):
        trainer.train()


def test_a_signal_in_the_last_save_loses_nothing(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sensorium.train import trainer as module

    save = module.save_checkpoint

    def interrupted(*arguments: Any, **options: Any) -> Path:
        signal.raise_signal(signal.SIGTERM)
        return save(*arguments, **options)

    monkeypatch.setattr(module, "save_checkpoint", interrupted)
    Trainer(small_run(data, num_steps=2, save_every=0), tmp_path).train()
    assert last_checkpoint(tmp_path) == tmp_path / "step-000002"


def test_half_precision_learns_the_same(data: Path, tmp_path: Path) -> None:
    """Products in bfloat16, everything else in float32: the same run but for rounding."""
    found = {}
    for precision in ("float32", "bfloat16"):
        Trainer(small_run(data, num_steps=20, precision=precision), tmp_path / precision).train()
        found[precision] = [line["loss"] for line in read_metrics(tmp_path / precision)]
    assert found["bfloat16"] != found["float32"]
    assert found["bfloat16"] == pytest.approx(found["float32"], rel=0.02)
    texts = [line["loss_text"] for line in read_metrics(tmp_path / "bfloat16")]
    assert texts[-1] < texts[0]


def test_experts_in_half_precision(data: Path, tmp_path: Path) -> None:
    config = small_run(data, num_steps=2, precision="bfloat16")
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, experts="ffn"))
    Trainer(config, tmp_path).train()
    assert all(math.isfinite(line["loss"]) for line in read_metrics(tmp_path))


def test_the_best_checkpoint_is_kept(data: Path, tmp_path: Path) -> None:
    """Held-out losses decide which it is; training goes on as if nobody had looked."""
    options: dict[str, Any] = {"num_steps": 8, "save_every": 2, "keep_checkpoints": 1}
    plain, looked = tmp_path / "plain", tmp_path / "looked"
    Trainer(small_run(data, **options), plain).train()
    trainer = Trainer(small_run(data, **options, eval_every=2, eval_batches=1, lr=0.3), looked)
    trainer.train()
    lines = [line for line in read_metrics(looked) if "val_loss" in line]
    assert [line["step"] for line in lines] == [2, 4, 6, 8]
    assert {"val_text", "val_align", "val_flow_image"} <= lines[0].keys()
    best = min(lines, key=lambda line: line["val_loss"])["step"]
    assert (looked / "best").read_text() == f"step-{best:06d}\n"
    assert (looked / "last").read_text() == "step-000008\n"
    kept = {"step-000008", f"step-{best:06d}"}
    assert {p.name for p in looked.glob("step-*")} == kept
    weights = read_tensors(looked / f"step-{best:06d}" / "model.safetensors")
    assert torch.equal(load(looked / "best").model.state_dict()["norm.weight"], weights["norm.weight"])
    # The same run, seen or not.
    again = tmp_path / "again"
    Trainer(small_run(data, **options, eval_every=3, eval_batches=1), again).train()
    names = {key for line in metrics(plain) for key in line}
    assert [{k: v for k, v in line.items() if k in names} for line in metrics(again)] == metrics(plain)


def test_held_out_losses_need_held_out_data(data: Path, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    for name in ("noto", "scratch"):
        table = pq.read_table(data / f"{name}.parquet")
        pq.write_table(table.filter(pa.compute.equal(table["split"], "train")), tmp_path / f"{name}.parquet")
    with pytest.raises(ValueError, match="no source has a split 'validation'"):
        Trainer(small_run(tmp_path, eval_every=2), tmp_path / "run")
