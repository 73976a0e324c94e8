"""What a step is said to need is what it needs, in a fresh process; and saying so allocates next to nothing."""

import dataclasses
import json
import subprocess
import sys
from itertools import islice
from typing import Any

import pytest
import torch

from sensorium import recipes
from sensorium.config import RunConfig
from sensorium.data.loader import Loader
from sensorium.sequence.packing import Batch
from sensorium.sequence.tokenizer import Tokenizer
from sensorium.train.memory import estimate_memory, measure_step, resident_bytes


def shape(name: str) -> RunConfig:
    """Two recipes with fewer samples, one of them checkpointed, or with products in half precision; one wider than deep, with
    long rows.
    """
    config = recipes.get("tiny" if name in ("tiny", "half") else "nano")
    if name == "half":
        config = dataclasses.replace(config, train=dataclasses.replace(config.train, precision="bfloat16"))
    if name == "tiny":
        config = dataclasses.replace(
            config, train=dataclasses.replace(config.train, activation_checkpointing=True)
        )
    if name == "wide":
        model = dataclasses.replace(
            config.model, dim=384, num_layers=3, mlp_dim=1024, num_heads=6, num_kv_heads=2, head_dim=64
        )
        train = dataclasses.replace(config.train, optimizer="adamw")
        config = dataclasses.replace(config, model=model, train=train)
    row_length, num_samples = {"nano": (128, 48), "tiny": (192, 24), "half": (192, 96), "wide": (512, 24)}[
        name
    ]
    data = dataclasses.replace(config.data, row_length=row_length, samples_per_step=num_samples)
    return dataclasses.replace(config, data=data)


CPU = torch.device("cpu")


def first_step(config: RunConfig) -> list[Batch]:
    num = config.train.num_microbatches
    loader = Loader(config.data, config.model, Tokenizer.load(config.tokenizer), seed=0, num_microbatches=num)
    return [batch for _, batch in islice(loader.stream(0, 1), num)]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["nano", "tiny", "half", "wide"])
def test_prediction_is_within_15_percent_of_what_is_measured(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.train.test_memory", name], capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    print(found)
    assert found["predicted"] == pytest.approx(found["measured"], rel=0.15)


def test_the_terms_are_those_of_the_optimiser() -> None:
    config = shape("wide")
    batches = first_step(config)
    with torch.device("meta"):
        from sensorium.model.sensorium import Sensorium

        model = Sensorium(config.model)
    weights = sum(p.nbytes for p in model.parameters())
    trained = [p for p in model.parameters() if p.requires_grad]
    terms = estimate_memory(config, batches, CPU).terms
    assert terms["weights"] == terms["average"] == weights
    # Two moments, and a step count of four bytes.
    assert terms["optimizer"] == sum(2 * p.nbytes + 4 for p in trained)
    assert terms["gradients"] <= sum(p.nbytes for p in trained)


def test_a_large_model_is_estimated_without_its_memory() -> None:
    """28 layers would only take longer: two of them, with Qwen3's vocabulary, are gigabytes already."""
    config = shape("wide")
    model = dataclasses.replace(
        config.model,
        vocab_size=151_936,
        dim=2048,
        num_layers=2,
        mlp_dim=6144,
        num_heads=16,
        num_kv_heads=8,
        head_dim=128,
    )
    large = dataclasses.replace(config, model=model)
    batches = first_step(large)
    estimate_memory(config, batches, CPU)  # what it imports
    before = resident_bytes()
    estimate = estimate_memory(large, batches, CPU)
    assert estimate.peak > 8e9
    assert resident_bytes() - before < 0.3e9


def test_what_lowers_memory_lowers_the_prediction() -> None:
    config = shape("wide")

    def activations(**train: Any) -> int:
        changed = dataclasses.replace(config, train=dataclasses.replace(config.train, **train))
        return estimate_memory(changed, first_step(changed), CPU).activations

    as_it_is = activations()
    assert activations(activation_checkpointing=True) < 0.8 * as_it_is
    assert activations(num_microbatches=2) < 0.8 * as_it_is
    data = dataclasses.replace(config.data, samples_per_step=2 * config.data.samples_per_step)
    more = dataclasses.replace(config, data=data)
    assert estimate_memory(more, first_step(more), CPU).activations > 1.5 * as_it_is


if __name__ == "__main__":
    torch.set_num_threads(1)
    chosen = shape(sys.argv[1])
    first = first_step(chosen)
    predicted = estimate_memory(chosen, first, CPU).peak
    print(json.dumps({"predicted": predicted, "measured": measure_step(chosen, first, CPU).peak}))
