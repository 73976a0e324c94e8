"""Adapting a model to data of one's own, on the trainer of everything else."""

from sensorium.finetuning.run import Options, Result, finetune, resume

__all__ = ["Options", "Result", "finetune", "resume"]
