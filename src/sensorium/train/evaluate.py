"""The loss on data that are never trained on: which checkpoint is the best."""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from sensorium.config import RunConfig
from sensorium.data.loader import Loader
from sensorium.data.reader import Reader
from sensorium.losses import Loss
from sensorium.model.sensorium import Sensorium
from sensorium.sequence.tokenizer import Tokenizer
from sensorium.train.failures import memory_explained
from sensorium.train.optimizer import EMA
from sensorium.train.parallel import Ranks, Shards
from sensorium.train.step import share_facts, step_losses, total_loss

SPLIT = "validation"


def validation_loader(config: RunConfig, tokenizer: Tokenizer, ranks: Ranks) -> Loader:
    """The same mixture from the sources' validation split, as it is: nothing augmented, nothing dropped.

    Raises:
        ValueError: no source has one.
    """
    held_out = [
        dataclasses.replace(source, split=SPLIT, augment=0.0)
        for source in config.data.sources
        if source.evaluated
    ]
    sources = tuple(source for source in held_out if Reader(source.path, SPLIT).num_rows)
    if not sources:
        raise ValueError(
            f"train.eval_every is {config.train.eval_every} and no source has a split {SPLIT!r}; "
            "give some rows that split (docs/data.md), or set train.eval_every to 0"
        )
    data = dataclasses.replace(
        config.data,
        sources=sources,
        clean_sources=(),
        condition_dropout=0.0,
        media_dropout=0.0,
        num_workers=0,
        largest_first=False,
    )
    return Loader(
        data,
        config.model,
        tokenizer,
        config.train.seed,
        rank=ranks.rank,
        world_size=ranks.world_size,
        num_microbatches=config.train.num_microbatches,
    )


@torch.no_grad()
def evaluate(model: Sensorium, loader: Loader, config: RunConfig, ranks: Ranks) -> dict[str, Tensor]:
    """``val_loss`` and its parts, the mean over ``eval_batches`` batches that are the same every time."""
    sums: list[Tensor] = []
    counts: list[Tensor] = []
    names: list[str] = []
    for step in range(config.train.eval_batches):
        batches = [loader.batch(step, number) for number in range(loader.num_microbatches)]
        facts = share_facts(batches, config, ranks)
        with memory_explained(step + 1, batches, config):
            for losses in step_losses(model, batches, facts, config, ranks):
                names = list(losses)
                sums.append(torch.stack([loss.sum for loss in losses.values()]))
                # Every micro-batch knows the counts of the whole step.
                counts_of_step = torch.stack([loss.count for loss in losses.values()])
        counts.append(counts_of_step)
    overall, items = ranks.sum_(torch.stack(sums).sum(dim=0)), torch.stack(counts).sum(dim=0)
    total, means = total_loss({n: Loss(overall[i], items[i]) for i, n in enumerate(names)}, config.train)
    return {"val_loss": total, **{f"val_{name}": mean for name, mean in means.items() if name != "z"}}


@contextmanager
def averaged_weights(model: Sensorium, shards: Shards, ema: EMA) -> Iterator[None]:
    """The model computes with its averaged weights meanwhile."""
    own = shards.state_dict()
    kept = {name: value.clone() for name, value in own.items()}
    was_training = model.training
    model.eval()
    try:
        for name, value in own.items():
            value.copy_(ema.weights[name])
        yield
    finally:
        for name, value in own.items():
            value.copy_(kept[name])
        shards.reshard()
        model.train(was_training)
