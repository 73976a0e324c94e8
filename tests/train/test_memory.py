"""What a step is said to need is what it needs, in a fresh process; and saying so allocates next to nothing."""

import dataclasses
import json
import subprocess
import sys

import pytest
import torch

from sensorium import recipes
from sensorium.config import RunConfig
from sensorium.data.loader import Loader
from sensorium.sequence.packing import Batch
from sensorium.sequence.tokenizer import Tokenizer
from sensorium.train.memory import estimate_memory, measure_step, resident_bytes


def shape(name: str) -> RunConfig:
    """Three shapes: two recipes with fewer samples, and one that is wider than deep, with long rows and AdamW."""
    config = recipes.get("tiny" if name == "tiny" else "nano")
    if name == "wide":
        model = dataclasses.replace(
            config.model, dim=384, num_layers=3, mlp_dim=1024, num_heads=6, num_kv_heads=2, head_dim=64
        )
        train = dataclasses.replace(config.train, optimizer="adamw")
        config = dataclasses.replace(config, model=model, train=train)
    row_length, num_samples = {"nano": (128, 48), "tiny": (192, 24), "wide": (512, 24)}[name]
    data = dataclasses.replace(config.data, row_length=row_length, samples_per_step=num_samples)
    return dataclasses.replace(config, data=data)


def batch_of(config: RunConfig) -> Batch:
    return Loader(config.data, config.model, Tokenizer.load(config.tokenizer), seed=0).batch(0)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["nano", "tiny", "wide"])
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
    batch = batch_of(config)
    with torch.device("meta"):
        from sensorium.model.sensorium import Sensorium

        model = Sensorium(config.model)
    weights = sum(p.nbytes for p in model.parameters())
    trained = [p for p in model.parameters() if p.requires_grad]
    terms = estimate_memory(config, batch).terms
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
    batch = batch_of(large)
    estimate_memory(config, batch)  # what it imports
    before = resident_bytes()
    estimate = estimate_memory(large, batch)
    assert estimate.peak > 8e9
    assert resident_bytes() - before < 0.3e9


def test_more_samples_need_more() -> None:
    config = shape("wide")
    few = estimate_memory(config, batch_of(config))
    data = dataclasses.replace(config.data, samples_per_step=48)
    many = estimate_memory(config, batch_of(dataclasses.replace(config, data=data)))
    assert many.activations > 1.5 * few.activations
    assert many.weights == few.weights


if __name__ == "__main__":
    torch.set_num_threads(1)
    chosen = shape(sys.argv[1])
    first = batch_of(chosen)
    predicted = estimate_memory(chosen, first).peak
    print(json.dumps({"predicted": predicted, "measured": measure_step(chosen, first).peak}))
