"""The first 20 steps of every recipe are what they were: a change that is not numerical leaves them as they are.

After a change that is meant to be numerical: ``python -m tests.train.test_golden``, and the curves before and after go
into EXPERIMENTS.md.
"""

import dataclasses
import json
import tempfile
from pathlib import Path
from typing import Any

import pytest

from sensorium import recipes
from sensorium.train.metrics import read_metrics
from sensorium.train.trainer import Trainer

GOLDEN = Path(__file__).with_name("golden.json")
NUM_STEPS = 20
# Samples in a step: nano and tiny with less than their own, so that this stays cheap; the others at toy widths.
RECIPES = {
    "nano": 24,
    "tiny": 12,
    "starter-debug": 32,
    "hearing-debug": 16,
    "small-debug": 24,
    "base-debug": 24,
}
# Other processors add in another order, and 20 steps of Muon amplify that: between two kinds by 5e-4 at most, in a contrast
# of the few pairs of one step by ten times that.
TOLERANCE = 5e-3
ALIGN_TOLERANCE = 2e-2


def curve(name: str, run: Path) -> list[dict[str, float]]:
    """The losses of each step."""
    config = recipes.get(name)
    data = dataclasses.replace(config.data, samples_per_step=RECIPES[name])
    train = dataclasses.replace(
        config.train, num_steps=NUM_STEPS, max_train_s=0.0, save_every=0, sample_every=0, log_every=1
    )
    Trainer(dataclasses.replace(config, data=data, train=train), run).train()
    keep = ("loss", "loss_text", "loss_align", "loss_flow_image", "loss_flow_audio", "loss_spell_audio")
    return [{key: line[key] for key in keep if key in line} for line in read_metrics(run)]


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_the_first_steps_are_what_they_were(name: str, tmp_path: Path) -> None:
    golden: list[dict[str, Any]] = json.loads(GOLDEN.read_text())[name]
    measured = curve(name, tmp_path)
    assert len(measured) == len(golden) == NUM_STEPS
    for step, (now, then) in enumerate(zip(measured, golden, strict=True)):
        for key, value in then.items():
            tolerance = ALIGN_TOLERANCE if key == "loss_align" else TOLERANCE
            assert now[key] == pytest.approx(value, rel=tolerance), f"{name}, step {step + 1}, {key}"


def test_every_recipe_has_a_curve() -> None:
    assert {name.removesuffix(recipes.DEBUG) for name in RECIPES} == set(recipes.RECIPES)
    assert json.loads(GOLDEN.read_text()).keys() == RECIPES.keys()


def main() -> None:
    curves = {}
    for name in RECIPES:
        with tempfile.TemporaryDirectory() as folder:
            lines = curve(name, Path(folder))
        curves[name] = [{key: round(value, 5) for key, value in line.items()} for line in lines]
        print(f"{name}: loss {lines[0]['loss']:.3f} -> {lines[-1]['loss']:.3f}")
    GOLDEN.write_text(json.dumps(curves, indent=0) + "\n")


if __name__ == "__main__":
    main()
