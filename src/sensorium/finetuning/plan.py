"""What a fine-tuning trains on and how: templates for the rows, replay of the old data, a configuration."""

import dataclasses
from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Literal

from sensorium import mixtures
from sensorium.config import DataConfig, RunConfig, SourceConfig, Template
from sensorium.data.reader import Reader
from sensorium.data.scan import fitting_templates, media_of_row
from sensorium.data.templates import find_template
from sensorium.finetuning.rows import Rows

NUM_LOOKED_AT = 256  # rows by which templates are chosen
NAMED = {"pair": 2.0, "embed": 1.0, "caption": 0.5}  # of pictures with words, as the recipes have it
# A third of pretraining's for all weights, and more where most of them cannot move: EXPERIMENTS.md, section 20.
LR = {"all": 3e-4, "heads": 3e-3}
_MODALITY = {"image": "image", "audio": "audio", "video": "image"}  # of the model that takes the medium


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a model is adapted.

    Args:
        train: "all" weights, or the "heads" alone: encoders, trunk and token embeddings stay as they are.
        templates: name -> weight, how rows become documents; what the rows hold decides where there are none.
        own_templates: by name, beside the built-in ones.
        held_out: share of the rows kept for the held-out loss where none has the split validation.
        replay: share of every step that comes from what the model was trained on, in [0, 1).
        num_steps: optimiser steps. max_train_s: seconds of training, 0 for no limit.
        lr: peak learning rate; 0 is that of ``LR``.
        samples_per_step: samples of one step, replayed ones included.
        eval_every: steps between held-out losses. patience: such losses without a new lowest that end the run; 0: never.
        seed: of the order, the held-out part and the noise.
    """

    train: Literal["all", "heads"] = "all"
    templates: Mapping[str, float] = field(default_factory=dict)
    own_templates: Mapping[str, Template] = field(default_factory=dict)
    held_out: float = 0.2
    replay: float = 0.5
    num_steps: int = 100
    max_train_s: float = 150.0
    lr: float = 0.0
    samples_per_step: int = 32
    eval_every: int = 10
    patience: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.replay < 1:
            raise ValueError(
                f"replay is {self.replay}; expected a share from 0 to below 1: what is left is your own data's"
            )
        if not 0 < self.held_out < 1:
            raise ValueError(f"held_out is {self.held_out}; expected a share between 0 and 1")
        for name in ("num_steps", "eval_every", "samples_per_step"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected 1 or more")
        for name in ("max_train_s", "patience", "lr"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; expected 0 or more")


def make_config(config: RunConfig, rows: Rows, options: Options) -> tuple[RunConfig, str]:
    """The configuration of the run, and what is replayed, in words.

    Args:
        config: of the model to adapt.

    Raises:
        ValueError: the data cannot be used with this model, and what to do.
    """
    looked_at = list(islice(Reader(rows.path, "train").rows(), NUM_LOOKED_AT))
    _check_media(looked_at, config)
    known = {**config.data.templates, **options.own_templates}
    templates = dict(options.templates) or choose_templates(looked_at, known_templates(config))
    documents = [line for name in templates for line in find_template(name, known).documents]
    _check_documents(documents, templates, config, options)
    own = SourceConfig(
        path=rows.path,
        weight=1.0 - options.replay,
        templates=templates,
        # Questions are about colour and place, and speech that is cut no longer matches its words.
        augment=0.0 if any("{chat}" in line for line in documents) else 1.0,
        order_key="own",
        cut=not any(row["segments"] or row["messages"] for row in looked_at),
    )
    replayed, where = replay(config, options.replay, rows.path)
    samples = max(options.samples_per_step, 1 + len(replayed))
    data = dataclasses.replace(
        config.data,
        sources=(own, *replayed),
        clean_sources=(),
        clean_from=0,
        templates=known,
        samples_per_step=samples,
        num_workers=0,
        cache_mb=DataConfig.cache_mb,
    )
    train = dataclasses.replace(
        config.train,
        num_steps=options.num_steps,
        max_train_s=options.max_train_s,
        lr=options.lr or LR[options.train],
        trained=options.train,
        eval_every=options.eval_every,
        eval_batches=min(8, 1 + -(-rows.num_held_out // samples)),
        patience=options.patience,
        seed=options.seed,
        save_every=5 * options.eval_every,
        keep_checkpoints=1,
        sample_every=0,
        log_every=options.eval_every,
        num_microbatches=1,
        trackers=(),
    )
    name = f"{config.name.removesuffix('-finetuned')}-finetuned"
    return dataclasses.replace(config, name=name, data=data, train=train), where


def known_templates(config: RunConfig) -> set[str]:
    """Names of the templates that a model was trained with."""
    return {name for s in (*config.data.sources, *config.data.clean_sources) for name in s.templates}


def choose_templates(rows: list[dict[str, Any]], known: Container[str]) -> dict[str, float]:
    """Template -> weight by what rows hold: one form for all of them.

    Args:
        known: to the model. Pictures with words are learned in those of the usual ways that it knows.

    Raises:
        ValueError: no row says anything, or rows are of several forms.
    """
    forms: dict[str, str] = {}  # template -> the first row of its form
    for row in rows:
        for name in fitting_templates(row, {}):
            forms.setdefault(name, row["id"])
    if not forms:
        raise ValueError(
            "no row has words to learn (text, messages or names); name pictures by their folder (mug/1.jpg), put "
            "1.txt beside 1.jpg, or give a table with a column of text"
        )
    if len(forms) > 1:
        found = " and ".join(f"{name} for {sample_id}" for name, sample_id in forms.items())
        raise ValueError(
            f"rows are of several forms ({found}); name a template that suits all of them (DATA=TEMPLATE), or adapt to "
            "one form after the other"
        )
    (template,) = forms
    if template != "pair" or any(row["audio"] for row in rows):
        return {template: 1.0}
    has_names = all(len(row["names"] or {}) > 1 for row in rows)
    usual = {**NAMED, **({"translate": 0.5} if has_names else {})}
    return {name: weight for name, weight in usual.items() if name in known} or {"pair": 1.0}


def replay(config: RunConfig, share: float, excluded: str) -> tuple[tuple[SourceConfig, ...], str]:
    """Sources the model was trained on, as far as they can be read, and what they are, in words.

    Their weights add up to the share. Where none can be read, the data that ship with the package stand in.
    """
    if not share:
        return (), "nothing: the model may forget what it knows"
    own = config.data.clean_sources or config.data.sources
    for candidates, what in (
        (own, "{} of the {} sources that the model was trained on"),
        (mixtures.STARTER_SOURCES, "the data that ship with the package: the model's own are not here"),
    ):
        found = [s for s in candidates if s.path != excluded and s.weight > 0 and _is_here(s, config)]
        total = sum(source.weight for source in found)
        if found:
            weighted = (
                dataclasses.replace(source, weight=source.weight / total * share, evaluated=False)
                for source in found
            )
            return tuple(weighted), f"{share:.0%} {what.format(len(found), len(own))}"
    return (), "nothing: no source that the model was trained on is here, so it may forget what it knows"


def _is_here(source: SourceConfig, config: RunConfig) -> bool:
    """Whether a source can be read, and its media are of this model."""
    try:
        reader = Reader(source.path, source.split)
    except (OSError, ValueError):
        return False
    return reader.num_rows > 0 and all(
        _MODALITY[kind] in config.model.modalities for kind, _ in media_of_row(reader.row(0, 0))
    )


def _check_media(rows: list[dict[str, Any]], config: RunConfig) -> None:
    for row in rows:
        for kind, _ in media_of_row(row):
            if _MODALITY[kind] not in config.model.modalities:
                known = ", ".join(["text", *config.model.modalities])
                raise ValueError(
                    f"row {row['id']!r} has {kind}, and the model {config.name} knows {known}; take another model, or "
                    "rows without it"
                )


def _check_documents(
    documents: list[str], templates: Mapping[str, float], config: RunConfig, options: Options
) -> None:
    """Something must be there to learn; for heads alone, something that they do."""
    names = ", ".join(templates)
    drawn = any(slot in line for line in documents for slot in ("<emb", "{target", "{spoken"))
    if not drawn and not any(mark in line for line in documents for mark in ("!}", "!>", "{chat", "{chunks")):
        raise ValueError(
            f"the template {names} has nothing to learn; mark what is to be predicted with a !, as in {{text!}}"
        )
    # Words come from the token embeddings where those are the language-model head too.
    if options.train == "heads" and config.model.tie_embeddings and not drawn:
        raise ValueError(
            f"--train heads has nothing to learn from the template {names}: this model's words come from its token "
            "embeddings, which are no head; use --train all, or a template that embeds or draws (pair, embed)"
        )
