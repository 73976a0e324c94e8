"""What is logged of a step is what its parts say one by one."""

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

from sensorium.data.loader import Loader
from sensorium.losses import compute_losses
from sensorium.model.flow import draw_noise
from sensorium.model.sensorium import Sensorium
from sensorium.sequence.packing import Batch, pack
from sensorium.sequence.tokenizer import Tokenizer
from sensorium.train.evaluate import evaluate, validation_loader
from sensorium.train.metrics import read_metrics
from sensorium.train.parallel import Ranks
from sensorium.train.sight import Amounts, TaskLosses, measure_peak_flops, part_of
from sensorium.train.trainer import Trainer
from tests.train.run import small_run

CPU = torch.device("cpu")


def step(model: Sensorium, batches: Sequence[Batch]) -> TaskLosses:
    found = TaskLosses(model.config)
    for batch in batches:
        noise = draw_noise(batch, model.config, torch.Generator().manual_seed(0))
        found.add(batch, compute_losses(model, batch, noise))
    return found


def test_losses_by_task_are_those_of_its_documents_alone(data: Path) -> None:
    config = small_run(data)
    tokenizer = Tokenizer.load(config.tokenizer)
    loader = Loader(config.data, config.model, tokenizer, seed=0)
    documents = loader.samples(0).documents + loader.samples(1).documents

    def packed(chosen: Sequence[Any]) -> Batch:
        return pack(chosen, tokenizer, config.model, row_length=config.data.row_length)

    torch.manual_seed(0)
    model = Sensorium(config.model).eval()
    half = len(documents) // 2
    means = step(model, [packed(documents[:half]), packed(documents[half:])]).means()
    tasks = {document.task for document in documents}
    assert len(tasks) > 2
    assert {key.partition("/")[2] for key in means if key.startswith("text/")} == tasks | {
        task.rpartition("/")[0] for task in tasks
    }
    for key, value in means.items():
        name, _, task = key.partition("/")
        own = [d for d in documents if task in (d.task, d.task.rpartition("/")[0])]
        batch = packed(own)
        noise = draw_noise(batch, config.model, torch.Generator().manual_seed(0))
        loss = compute_losses(model, batch, noise)[name]
        assert float(value) == pytest.approx(float((loss.sum / loss.count).detach()), rel=1e-4), key


def test_what_a_run_writes(data: Path, tmp_path: Path) -> None:
    config = small_run(data, num_steps=4, save_every=0, log_every=2)
    Trainer(config, tmp_path).train()
    lines = read_metrics(tmp_path)
    batch = Loader(config.data, config.model, Tokenizer.load(config.tokenizer), config.train.seed).batch(0)
    first = lines[0]
    assert {key.partition("/")[2] for key in first if key.startswith("text/")} >= set(batch.tasks)
    num_pictures = sum(len(group["image"].grids_N2) for group in (batch.context, batch.targets))
    assert first["images_per_s"] / first["tokens_per_s"] == pytest.approx(
        num_pictures / batch.num_tokens, rel=1e-3
    )
    assert all(0 < line["mfu"] < 2 for line in lines)
    assert all(line["audio_s_per_s"] > 0 for line in lines)
    for line in lines:
        norms = {key.partition("/")[2] for key in line if key.startswith("grad_norm/")}
        parts = {part_of(name) for name, _ in Sensorium(config.model).named_parameters()}
        assert norms == (parts if line["step"] % 2 == 0 else set())
    second = lines[1]
    squares = sum(second[key] ** 2 for key in second if key.startswith("grad_norm/"))
    assert squares**0.5 == pytest.approx(second["grad_norm"], rel=1e-4)


def test_update_ratios_are_what_the_weights_did(data: Path, tmp_path: Path) -> None:
    trainer = Trainer(small_run(data, log_every=1, warmup=0.0), tmp_path)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    values = trainer.train_step([batch for _, batch in islice(trainer.loader.stream(0, 1), 1)])
    after = trainer.model.state_dict()
    for part in ("layers", "encoders.image", "norm"):
        names = [name for name in after if part_of(name) == part]
        change = sum(float((after[n] - before[n]).square().sum()) for n in names) ** 0.5
        norm = sum(float(after[n].square().sum()) for n in names) ** 0.5
        assert float(values[f"update_ratio/{part}"]) == pytest.approx(change / norm, rel=1e-3)
        assert change > 0


def test_held_out_losses_do_not_depend_on_the_number_of_microbatches(data: Path) -> None:
    found = []
    for num_microbatches in (1, 3):
        config = small_run(data, eval_every=5, eval_batches=2, num_microbatches=num_microbatches)
        tokenizer, ranks = Tokenizer.load(config.tokenizer), Ranks()
        torch.manual_seed(0)
        model = Sensorium(config.model).eval()
        found.append(evaluate(model, validation_loader(config, tokenizer, ranks), config, ranks))
    whole, in_parts = found
    assert {"val_loss", "val_text", "val_align", "val_flow_image"} <= whole.keys() == in_parts.keys()
    for name, value in whole.items():
        assert float(in_parts[name]) == pytest.approx(float(value), rel=1e-5), name
    assert float(whole["val_loss"]) > 0


def test_seconds_of_sound(data: Path) -> None:
    config = small_run(data)
    loader = Loader(config.data, config.model, Tokenizer.load(config.tokenizer), seed=0)
    batches = [loader.batch(n) for n in range(3)]
    found = Amounts(config.model, CPU, torch.float32).of(batches)
    frames = [
        int((group["audio"].grids_N2[:, 0] * config.model.modalities["audio"].patch[0]).sum())
        for batch in batches
        for group in (batch.context, batch.targets)
        if "audio" in group
    ]
    assert found["audio_s"] == pytest.approx(sum(frames) * 256 / 24_000)
    assert found["flops"] > 0


def test_the_probe_is_what_a_product_does() -> None:
    assert 1e9 < measure_peak_flops(CPU, torch.float32) < 1e14
