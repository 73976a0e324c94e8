"""One run: the library's own trainer until a number of FLOPs is used up, then the figures."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.claims import measure

from sensorium.config import RunConfig, to_dict
from sensorium.generate.interface import Model
from sensorium.sequence.packing import Batch
from sensorium.train.checkpoint import last_checkpoint
from sensorium.train.metrics import read_metrics
from sensorium.train.trainer import Trainer

NUM_POINTS = 60  # of the training curves that are kept
FLOPS = "flops_seen"


class BudgetedTrainer(Trainer):
    """A trainer whose end and learning rate follow FLOPs instead of steps.

    They are counted by ``model.flops.StepFlops`` on the real batches, and resumed from the metrics of a stopped run.

    Args:
        budget: FLOPs of the run; it ends with the step that reaches them.
    """

    def __init__(self, config: RunConfig, run: Path, budget: float) -> None:
        self.budget, self.flops = budget, 0.0
        super().__init__(config, run, resume=last_checkpoint(run) is not None)
        self.flops = next((line[FLOPS] for line in reversed(read_metrics(run))), 0.0)

    @property
    def progress(self) -> float:
        """Share of the FLOPs that are used up."""
        return min(1.0, self.flops / self.budget)

    def train_step(self, batches: Sequence[Batch]) -> dict[str, Any]:
        """A step, with the FLOPs so far in what is logged."""
        values = super().train_step(batches)
        self.flops += values["amounts"]["flops"]
        values[FLOPS] = self.flops
        return values


def fingerprint(config: RunConfig, tflop: float, figures: Sequence[str]) -> str:
    """A hash of all that decides a run: equal ones are trained once, whatever they are called."""
    asked = json.dumps([to_dict(config), tflop, sorted(figures)], sort_keys=True)
    return hashlib.sha256(asked.encode()).hexdigest()[:16]


def run(config: RunConfig, tflop: float, figures: Sequence[str], folder: Path, data: Path) -> dict[str, Any]:
    """Train in ``folder``, where a stopped run goes on, and measure."""
    trainer = BudgetedTrainer(config, folder, tflop * 1e12)
    trainer.train()
    averaged = trainer.averaged_model()
    assert averaged is not None
    model = Model(averaged, trainer.tokenizer, config)
    found: dict[str, float] = {}
    for name in figures:
        found |= measure.FIGURES[name](model, data)
    lines = read_metrics(folder)
    kept = [key for key in lines[-1] if key == "loss" or key.startswith(("loss_", "val_"))]
    every = max(1, len(lines) // NUM_POINTS)
    curve = [
        {
            FLOPS: line[FLOPS],
            "samples": line["samples_seen"],
            **{key: line[key] for key in kept if key in line},
        }
        for number, line in enumerate(lines)
        if number % every == 0 or "val_loss" in line
    ]
    return {
        "parameters": sum(weight.numel() for weight in averaged.parameters()),
        "tflop": trainer.flops / 1e12,
        "steps": trainer.step,
        "samples": trainer.samples_seen,
        "train_s": trainer.elapsed_s,
        "figures": found,
        "curve": curve,
    }
