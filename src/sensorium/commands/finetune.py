"""``sensorium finetune``: see ``sensorium.finetuning``."""

import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from sensorium.commands.arguments import parse

DESCRIPTION = """Adapt a model to data of your own; twenty pictures are enough to begin with. The weights with the lowest loss on
rows that were held out are kept, and FOLDER is then a model for every other verb.

  sensorium finetune MODEL DATA --out FOLDER

MODEL is a model or run folder, or starter. DATA is a folder of pictures or sounds (mug/1.jpg is called mug; 1.txt may stand
beside 1.jpg), a table, shards, starter:NAME, or whatever else `sensorium data import` knows; DATA=TEMPLATE[:WEIGHT],... says
how rows are learned, otherwise their form decides. Rows of the split validation are held out, else a share of the rows.

Examples:
  sensorium finetune starter photos/ --out runs/mine
  sensorium finetune starter questions.jsonl --out runs/quiz --steps 400
  sensorium finetune runs/tiny photos/=embed --out runs/heads --train heads
  sensorium finetune --resume --out runs/mine
"""


@dataclass(frozen=True, kw_only=True)
class Finetune:
    """Arguments of ``sensorium finetune``."""

    words: Annotated[
        tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="MODEL DATA", help_behavior_hint="")
    ] = ()
    """The model to start from, and the data to adapt it to."""
    out: Annotated[str, tyro.conf.arg(metavar="FOLDER", help_behavior_hint="(required)")] = ""
    """Folder of the run and of the new model."""
    resume: bool = False
    """Continue the fine-tuning in that folder."""
    train: Literal["all", "heads"] = "all"
    """All weights, or only the heads: the projection to the shared space and the ways out to media."""
    replay: float = 0.5
    """Share of every step that comes from what the model was trained on, against forgetting; 0 for none."""
    held_out: float = 0.2
    """Share of the rows that is held out, where none has the split validation."""
    lr: Annotated[float, tyro.conf.arg(help_behavior_hint="(default: 3e-4, for heads 3e-3)")] = 0.0
    """Peak learning rate."""
    steps: int = 100
    """Optimiser steps at most."""
    seconds: float = 150.0
    """Seconds of training at most; 0 means no limit, and then the same seed gives the same weights."""
    patience: int = 5
    """Held-out losses (one in ten steps) without a new lowest that end the run; 0 means never."""
    seed: int = 0
    """Of what is held out, the order and the noise."""
    templates: Annotated[
        str, tyro.conf.arg(metavar="FILE", help_behavior_hint="(default: the built-in ones)")
    ] = ""
    """A JSON file of templates of your own (docs/data.md shows one)."""


def main(arguments: Sequence[str]) -> int:
    """Adapt a model, or go on with it."""
    chosen, given = parse(Finetune, arguments, verb="finetune", description=DESCRIPTION)
    if not chosen.out:
        raise ValueError("--out is missing; say in which folder the new model goes")
    others = sorted(given - {"out", "resume"}) + list(chosen.words)
    if chosen.resume and others:
        raise ValueError(
            f"--resume goes on with everything as it was; leave out {others[0]}, or start anew with another --out"
        )
    if not chosen.resume and len(chosen.words) != 2:
        raise ValueError(
            f"a model and data are needed, and {len(chosen.words)} words are given; write: sensorium finetune starter "
            "DATA --out FOLDER"
        )
    try:
        _run(chosen)
    except KeyboardInterrupt as stop:
        if stop.args == (signal.SIGTERM,):
            return 128 + signal.SIGTERM
        raise
    return 0


def _run(chosen: Finetune) -> None:
    from sensorium.commands.train import parse_source, read_templates
    from sensorium.finetuning import finetune, resume

    if chosen.resume:
        resume(chosen.out)
        return
    model, data = chosen.words
    own = read_templates(Path(chosen.templates)) if chosen.templates else {}
    is_named = "=" in data and not Path(data).exists()
    source = parse_source(data, own) if is_named else None
    finetune(
        model,
        source.path if source else data,
        chosen.out,
        train=chosen.train,
        templates=source.templates if source else {},
        own_templates=own,
        held_out=chosen.held_out,
        replay=chosen.replay,
        num_steps=chosen.steps,
        max_train_s=chosen.seconds,
        lr=chosen.lr,
        patience=chosen.patience,
        seed=chosen.seed,
    )
