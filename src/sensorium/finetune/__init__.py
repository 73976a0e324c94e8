"""Adapting a model to data of one's own, on the trainer of everything else."""

from sensorium.finetune.plan import Options
from sensorium.finetune.run import Result, finetune

__all__ = ["Options", "Result", "finetune"]
