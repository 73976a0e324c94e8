"""What a fine-tuning trains on and how: rows to templates, a held-out part, rehearsal, a configuration."""

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from sensorium import recipes
from sensorium.config import RunConfig, SourceConfig
from sensorium.data.reader import Reader
from sensorium.data.scan import fitting_templates, media_of_row
from sensorium.data.splits import SPLITS
from sensorium.data.templates import find_template
from sensorium.data.writer import ShardWriter
from sensorium.starter import TEST_STYLE

NUM_LOOKED_AT = 256  # rows by which templates are chosen
VALIDATION = "validation"
_MODALITY = {"image": "image", "audio": "audio", "video": "image"}  # of the model that takes the medium


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a model is adapted.

    Args:
        train: "all" weights, or the "heads" alone: encoders, trunk and token embeddings stay as they are.
        templates: name -> weight, how rows become documents; what the rows hold decides where there are none.
        held_out: share of the rows kept for the held-out loss where none has the split validation.
        rehearse: share of every step that comes from what the model was trained on, in [0, 1).
        num_steps: optimiser steps. max_train_s: seconds of training, 0 for no limit.
        lr: peak learning rate.
        samples_per_step: samples of one step, rehearsal included.
        eval_every: steps between held-out losses. patience: such losses without a new lowest that end the run; 0: never.
        seed: of the order, the held-out part and the noise.
    """

    train: Literal["all", "heads"] = "all"
    templates: Mapping[str, float] = field(default_factory=dict)
    held_out: float = 0.2
    rehearse: float = 0.5
    num_steps: int = 200
    max_train_s: float = 150.0
    lr: float = 5e-4
    samples_per_step: int = 32
    eval_every: int = 10
    patience: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.rehearse < 1:
            raise ValueError(
                f"rehearse is {self.rehearse}; expected a share from 0 to below 1: what is left is your own data's"
            )
        if not 0 < self.held_out < 1:
            raise ValueError(f"held_out is {self.held_out}; expected a share between 0 and 1")
        for name in ("num_steps", "eval_every", "samples_per_step"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected 1 or more")
        for name in ("max_train_s", "patience", "lr"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; expected 0 or more")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is about to be done.

    Args:
        config: of the run. num_rows: of the user's own data that are trained on; num_held_out: that never are.
        held_out: where the held-out rows come from, in words.
    """

    config: RunConfig
    num_rows: int
    num_held_out: int
    held_out: str


def make_plan(config: RunConfig, data: str, options: Options, copy_to: Path) -> Plan:
    """Look at the data and say how they are trained on.

    Args:
        config: of the model to adapt. data: as in ``SourceConfig.path``.
        copy_to: a folder for a copy of the rows, made where no row has the split validation.

    Raises:
        FileNotFoundError, ValueError: the data cannot be used with this model, and what to do.
    """
    if data == f"starter:{TEST_STYLE}":
        raise ValueError(
            f"{data} is the drawing style that models are evaluated on: trained on it, its figures mean nothing; take "
            "other data (starter:noto, say), or a file of your own"
        )
    train, held_out = Reader(data, "train"), Reader(data, VALIDATION)
    if not train.num_rows:
        found = {split: Reader(data, split).num_rows for split in SPLITS}
        there = ", ".join(f"{count} {split}" for split, count in found.items() if count) or "none at all"
        raise ValueError(
            f"{data} has no row of the split train (rows: {there}), and others are never trained on; give the rows to "
            "learn from the split train"
        )
    rows = list(islice(train.rows(), NUM_LOOKED_AT))
    _check_media(rows, config, data)
    templates = dict(options.templates) or choose_templates(rows, data)
    for name in templates:
        find_template(name, config.data.templates)
    _check_heads(templates, config, options)
    num_rows, num_held_out, path = train.num_rows, held_out.num_rows, data
    where = "the split validation"
    if not num_held_out:
        num_rows, num_held_out = _divide(train, options, copy_to)
        path, where = str(copy_to), f"a share of {options.held_out:g} of the split train, by seed {options.seed}"
    own = SourceConfig(path=path, weight=1.0 - options.rehearse, templates=templates, cut=not _is_speech(rows))
    sources = (own, *rehearsal(config, options.rehearse, {data, path}))
    samples = max(options.samples_per_step, len(sources))
    run = dataclasses.replace(
        config,
        name=f"{config.name.removesuffix('-finetuned')}-finetuned",
        data=dataclasses.replace(
            config.data, sources=sources, clean_sources=(), clean_from=0, samples_per_step=samples, num_workers=0
        ),
        train=dataclasses.replace(
            config.train,
            num_steps=options.num_steps,
            max_train_s=options.max_train_s,
            lr=options.lr,
            trained=options.train,
            eval_every=options.eval_every,
            eval_batches=min(8, 1 + -(-num_held_out // samples)),
            patience=options.patience,
            seed=options.seed,
            save_every=5 * options.eval_every,
            keep_checkpoints=1,
            sample_every=0,
            log_every=options.eval_every,
            num_microbatches=1,
            trackers=(),
        ),
    )
    return Plan(config=run, num_rows=num_rows, num_held_out=num_held_out, held_out=where)


def choose_templates(rows: list[dict[str, Any]], data: str) -> dict[str, float]:
    """Template -> weight by what rows hold: one form for all of them.

    Raises:
        ValueError: no row says anything, or rows are of several forms.
    """
    forms: dict[str, str] = {}  # template -> the first row of its form
    for row in rows:
        for name in fitting_templates(row, {}):
            forms.setdefault(name, row["id"])
    if len(forms) != 1:
        found = " and ".join(f"{name} for {sample_id}" for name, sample_id in forms.items())
        raise ValueError(
            f"{data}: "
            + (f"rows are of several forms ({found})" if forms else "no row has words (text, messages or names)")
            + "; name a template with --template that suits all rows, or give every form a folder of its own"
        )
    (template,) = forms
    if template != "pair" or any(row["audio"] for row in rows):
        return {template: 1.0}
    has_names = all(len(row["names"] or {}) > 1 for row in rows)
    return {"pair": 1.0, "embed": 1.0, **({"translate": 0.5} if has_names else {})}


def rehearsal(config: RunConfig, share: float, excluded: set[str]) -> tuple[SourceConfig, ...]:
    """What the model was trained on, as far as it is here, else the embedded data; its weights add up to the share."""
    if not share:
        return ()
    for candidates in (config.data.clean_sources or config.data.sources, recipes.STARTER_SOURCES):
        found = [s for s in candidates if s.path not in excluded and s.weight > 0 and _is_here(s)]
        total = sum(source.weight for source in found)
        if found:
            return tuple(
                dataclasses.replace(source, weight=source.weight / total * share, evaluated=False)
                for source in found
            )
    raise ValueError("there is nothing to rehearse: the model's training data are not here; use --rehearse 0")


def _is_here(source: SourceConfig) -> bool:
    try:
        return Reader(source.path, source.split).num_rows > 0
    except (OSError, ValueError):
        return False


def _is_speech(rows: list[dict[str, Any]]) -> bool:
    """Words that must match the sound: such a sound cannot be cut."""
    return any(row["segments"] or row["messages"] for row in rows)


def _check_media(rows: list[dict[str, Any]], config: RunConfig, data: str) -> None:
    for row in rows:
        for kind, _ in media_of_row(row):
            if _MODALITY[kind] not in config.model.modalities:
                known = ", ".join(["text", *config.model.modalities])
                raise ValueError(
                    f"{data}: row {row['id']!r} has {kind}, and the model {config.name} knows {known}; "
                    "take another model, or rows without it"
                )


def _check_heads(templates: Mapping[str, float], config: RunConfig, options: Options) -> None:
    """Heads alone must have something to learn: words come from the token embeddings unless those are untied."""
    if options.train != "heads" or not config.model.tie_embeddings:
        return
    lines = [line for name in templates for line in find_template(name, config.data.templates).documents]
    if not any(slot in line for line in lines for slot in ("<emb", "{target", "{spoken")):
        raise ValueError(
            f"--train heads has nothing to learn from the template {', '.join(templates)}: this model's words come from its "
            "token embeddings, which are no head; use --train all, or a template that embeds or draws (pair, embed)"
        )


def _divide(reader: Reader, options: Options, copy_to: Path) -> tuple[int, int]:
    """Copy the rows, some of them with the split validation; returns how many are trained on and held out.

    Rows with the same medium stay together. A copy that is there already is left as it is.
    """
    keys = [_key(row) for row in reader.rows()]
    order = sorted(set(keys), key=lambda key: hashlib.sha256(f"{options.seed}/{key}".encode()).digest())
    if len(order) < 2:
        raise ValueError(
            f"{reader.path} has {len(keys)} rows of one medium: nothing is left to hold out; give more, or rows of "
            f"the split {VALIDATION}"
        )
    held = set(order[: min(len(order) - 1, max(1, round(options.held_out * len(order))))])
    num_held = sum(key in held for key in keys)
    if not (copy_to / "manifest.json").is_file():
        writer = ShardWriter(copy_to, asked={"seed": options.seed, "held_out": options.held_out})
        for ordinal, (row, key) in enumerate(zip(reader.rows(), keys, strict=True)):
            split = VALIDATION if key in held else "train"
            try:
                if "problems" in row:
                    raise ValueError("; ".join(row["problems"]))
                writer.write({**row, "split": split}, ordinal)
            except ValueError as error:
                writer.reject(split, ordinal, row["id"], str(error))
        writer.close()
    return len(keys) - num_held, num_held


def _key(row: Mapping[str, Any]) -> str:
    media = [medium.get("bytes") or b"" for _, medium in media_of_row(row)]
    return hashlib.sha256(b"".join(media)).hexdigest() if any(media) else str(row["id"])
