"""``sensorium train``: a recipe, with any key of its configuration overridden; or a run resumed."""

import dataclasses
import json
import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from sensorium import mixtures, recipes
from sensorium.commands.arguments import help_only, run_tyro
from sensorium.config import (
    RunConfig,
    SourceConfig,
    Template,
    flatten,
    from_dict,
    load_config,
    save_config,
    to_dict,
)

if TYPE_CHECKING:
    from sensorium.train.trainer import Trainer

DESCRIPTION = """Train a recipe, or resume a run:
  sensorium train RECIPE --out FOLDER [--KEY VALUE ...]
  sensorium train [RECIPE] --resume --out FOLDER [--KEY VALUE ...]

Recipes: {recipes}; each also as NAME-debug, at toy size on the data that ship with the package.
`sensorium train vocoder` trains what turns spectrograms into sound. {full} train on the full starter data:
make them first with `sensorium data build starter --out {folder}`, or name your own with --data.

Every key of the configuration is an option, such as --train.lr 1e-3, --data.row-length 192, --model.modalities.image.max-size 64 64 (`sensorium train {first} --help` lists them).

--resume continues exactly, with the saved configuration. What is named beside it, a recipe or a key, must
agree with that: a difference is an error that names the key. Only the budget and the schedule of writing may
change: {budget}.

A run's folder holds step-*/ (models that every other verb opens), metrics.jsonl, metrics.csv, loss.png,
samples/ and resolved.json (the whole configuration).

Examples:
  sensorium train nano --dry-run
  sensorium train nano --out runs/nano
  sensorium train tiny --out runs/tiny --train.lr 1e-3 --train.max-train-s 3600 --train.sample-every 200
  sensorium train nano --out runs/mine --data photos.parquet=pair,align questions/=chat
  sensorium train tiny --out runs/two --data web/ --clean mine/ --data.clean-from 18000
  sensorium train --resume --out runs/tiny --train.num-steps 4000
"""
BUDGET_KEYS = (
    *("train.num_steps", "train.max_train_s", "train.save_every", "train.keep_checkpoints"),
    *("train.sample_every", "train.log_every", "train.eval_every", "train.eval_batches", "train.trackers"),
    "train.patience",
    # How batches are made, never which; how a step is computed, never what.
    *("data.num_workers", "data.cache_mb"),
    *("train.num_microbatches", "train.shard_size", "train.activation_checkpointing", "train.compile"),
)
# Not config.json: that name would make the run's folder look like a model's.
RESOLVED = "resolved.json"
STOPPED = "stopped"  # why the last process of the run ended before its budget was used up
VOCODER = "vocoder"  # not a recipe of the model: its training is its own


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Arguments of ``sensorium train`` beside the configuration."""

    out: Annotated[Path, tyro.conf.arg(metavar="FOLDER")]
    """Folder of the run."""
    resume: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Continue the run in that folder."""
    warm_start: Annotated[
        str | None, tyro.conf.arg(metavar="MODEL", help_behavior_hint="(default: from nothing)")
    ] = None
    """Start from the weights and the tokenizer of a model (a model or run folder, or starter) of the recipe's shape, or
    of one half as wide, which is grown."""
    dry_run: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Show parameters, FLOPs and memory, take two steps on the largest batch, and keep nothing."""
    data: Annotated[
        tuple[str, ...],
        tyro.conf.arg(
            metavar="PATH[=TEMPLATE[:WEIGHT],...] ...", help_behavior_hint="(default: the recipe's)"
        ),
    ] = ()
    """Train on these instead: Parquet files, folders of them, s3://bucket/folder, or starter:NAME; all have the
    same weight, and the templates are pair unless named."""
    clean: Annotated[
        tuple[str, ...],
        tyro.conf.arg(
            metavar="PATH[=TEMPLATE[:WEIGHT],...] ...",
            help_behavior_hint="(default: the recipe's, without --data)",
        ),
    ] = ()
    """A second stage on these, from step --data.clean-from to the end of the run."""
    templates: Annotated[
        Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="(default: the built-in ones)")
    ] = None
    """A JSON file of templates of your own (docs/data.md shows one)."""


@dataclass(frozen=True, kw_only=True)
class Train(RunOptions):
    """Arguments of ``sensorium train RECIPE``."""

    config: Annotated[RunConfig, tyro.conf.arg(name="")]


def main(arguments: Sequence[str]) -> int:
    """Train, or resume."""
    words = list(arguments)
    recipe = words.pop(0) if words and not words[0].startswith("-") else ""
    if recipe == VOCODER:
        from sensorium.commands.train_vocoder import main as train_vocoder

        return train_vocoder(words)
    if help_only(words) and not recipe:
        run_tyro(RunOptions, words, verb="train", description=_description())
    resume = "--resume" in words
    if not recipe and not resume:
        raise ValueError(
            f"no recipe is named; give one of {', '.join(recipes.RECIPES)} or {VOCODER}, or --resume with --out"
        )
    # A run goes on with its own configuration: only what is named beside --resume can differ from it.
    start = _saved_config(_folder(words)) if resume else recipes.get(recipe)
    if resume and recipe and recipe != start.name and "name" not in _given_keys(words):
        raise ValueError(
            f"the run in {_folder(words)} is of the recipe {start.name}, and {recipe} is named here; leave the recipe "
            "out, or start a new run with another --out"
        )
    verb = f"train {recipe}".strip()
    # A dry run writes nothing.
    default = Train(out=Path() if "--dry-run" in words else tyro.MISSING, config=start)
    chosen: Train = run_tyro(Train, words, verb=verb, description=_description(), default=default, pairs=True)
    config = _with_data(chosen.config, chosen)
    if chosen.warm_start and (chosen.resume or chosen.dry_run):
        other = (
            "--resume goes on with the weights of the run"
            if chosen.resume
            else "--dry-run starts from nothing"
        )
        raise ValueError(f"{other}; leave --warm-start out")
    if chosen.dry_run:
        from sensorium.commands.dry_run import dry_run

        return dry_run(config)
    from sensorium.train.checkpoint import last_checkpoint
    from sensorium.train.launch import was_restarted

    if chosen.resume or (was_restarted() and last_checkpoint(chosen.out)):
        config = _reconcile(config, _saved_config(chosen.out), chosen.out, _given_keys(words))
    return _run(config, chosen.out, resume=chosen.resume, warm_start=chosen.warm_start)


def _run(config: RunConfig, out: Path, *, resume: bool, warm_start: str | None) -> int:
    from sensorium.commands.samples import write_samples
    from sensorium.train.checkpoint import last_checkpoint
    from sensorium.train.launch import stop_ranks
    from sensorium.train.trainer import Trainer

    start = None
    if warm_start:
        from sensorium.generate.interface import find_model

        start = find_model(warm_start)
    trainer = Trainer(config, out, resume=resume, sampler=write_samples, start=start)
    say = print if trainer.ranks.is_main else _say_nothing
    if trainer.is_done:
        train = config.train
        raise ValueError(
            f"{out} is finished: step {trainer.step} of {train.num_steps}, {trainer.elapsed_s:.0f} s"
            + (f" of {train.max_train_s:.0f}" if train.max_train_s else "")
            + (f", no lower held-out loss in {trainer.num_stale} tries" if trainer.num_stale else "")
            + "; to go on, give a larger --train.num-steps, --train.max-train-s or --train.patience"
        )
    if trainer.ranks.is_main:
        partial = out / f".{RESOLVED}.partial"
        save_config(config, partial)
        os.replace(partial, out / RESOLVED)
        (out / STOPPED).unlink(missing_ok=True)
    say(essentials(trainer), flush=True)
    try:
        final = trainer.train()
    except BaseException as error:
        if trainer.ranks.is_main:
            (out / STOPPED).write_text(f"{type(error).__name__}: {error}\n", encoding="utf-8")
        if not isinstance(error, KeyboardInterrupt):
            raise
        last = last_checkpoint(out)
        kept = (
            f"go on from {last.name} with: sensorium train --resume --out {out}"
            if last
            else "nothing is saved yet"
        )
        say(f"\nstopped at step {trainer.step}; {kept}", flush=True)
        if trainer.stopped_by == signal.SIGTERM:
            return 128 + signal.SIGTERM
        raise
    loader = trainer.loader
    for left_out, why in ((loader.bad, "unusable"), (loader.over_budget, "too large for this recipe")):
        if left_out:
            some = ", ".join(list(left_out)[:5]) + (", ..." if len(left_out) > 5 else "")
            say(f"left out as {why}: {len(left_out)} samples ({some})")
    say(f"saved {final}\ntry it: sensorium chat --model {out}")
    stop_ranks(trainer.ranks)
    return 0


def _say_nothing(*_: object, **__: object) -> None:
    """Another rank says it."""


def essentials(trainer: "Trainer") -> str:
    """The resolved configuration in a few lines."""
    config, model, train = trainer.config, trainer.config.model, trainer.config.train
    num_parameters = sum(parameter.numel() for parameter in trainer.model.parameters())
    media = [
        f"{n} {list(m.max_size)} in {m.max_grid[0] * m.max_grid[1]} tokens"
        for n, m in model.modalities.items()
    ]
    loader = trainer.loader
    mixtures = [
        ", ".join(
            f"{loader.sources[number].config.path} {share:.0%}"
            for number, share in zip(stage.numbers, stage.share, strict=True)
        )
        for stage in loader.stages
    ]
    budget = f"{train.num_steps:,} steps" + (f" or {train.max_train_s:,.0f} s" if train.max_train_s else "")
    rows = {
        "run": f"{config.name} -> {trainer.run_folder}"
        + (
            f", from step {trainer.step}"
            if trainer.step
            else f", from {trainer.start}"
            if trainer.start
            else ""
        ),
        "model": f"{num_parameters:,} parameters, {model.dim} wide, {model.num_layers} layers",
        "text": f"tokenizer {config.tokenizer}",
        "media": "; ".join(media) or "none",
        "data": mixtures[0],
        **({f"{config.data.clean_from:,} on": mixtures[1]} if len(mixtures) > 1 else {}),
        "step": f"{config.data.samples_per_step} samples in rows of {config.data.row_length} tokens"
        + (f", on {trainer.ranks.world_size} ranks" if trainer.ranks.world_size > 1 else "")
        + (f", in {train.num_microbatches} micro-batches" if train.num_microbatches > 1 else ""),
        "budget": f"{budget}, learning rate {train.lr:g}, seed {train.seed}",
    }
    return "\n".join(f"{name:<11}{text}" for name, text in rows.items())


def parse_source(text: str, own: Mapping[str, Template] | None = None) -> SourceConfig:
    """``PATH`` or ``PATH=TEMPLATE:WEIGHT,TEMPLATE``; a template without a weight has weight 1."""
    from sensorium.data.templates import find_template

    # The last "=": object stores have them in addresses too.
    path, _, names = text.rpartition("=") if "=" in text else (text, "", "")
    templates: dict[str, float] = {}
    for item in names.split(",") if names else ["pair"]:
        name, _, weight = item.partition(":")
        try:
            find_template(name, own)
            templates[name] = templates.get(name, 0.0) + float(weight or 1)
        except ValueError as error:
            raise ValueError(f"--data {text}: {error}") from error
    return SourceConfig(path=path, weight=1.0, templates=templates)


def read_templates(path: Path) -> dict[str, Template]:
    """A user's own templates, a JSON object as `sensorium/data/templates.json`."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise ValueError("expected an object of templates by name")
        return {name: from_dict(Template, value, where=f"{name}.") for name, value in values.items()}
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{path}: {error}; docs/data.md shows a template") from error


def _with_data(config: RunConfig, options: RunOptions) -> RunConfig:
    own = read_templates(options.templates) if options.templates else {}
    data = dataclasses.replace(config.data, templates={**config.data.templates, **own})
    if options.data:  # the recipe's clean stage belongs to the recipe's data
        sources = tuple(parse_source(text, own) for text in options.data)
        data = dataclasses.replace(data, sources=sources, clean_sources=())
    if options.clean:
        data = dataclasses.replace(
            data, clean_sources=tuple(parse_source(text, own) for text in options.clean)
        )
    return dataclasses.replace(config, data=data)


def _saved_config(out: Path) -> RunConfig:
    from sensorium.train.checkpoint import last_checkpoint

    found = last_checkpoint(out)
    if not found:
        raise FileNotFoundError(
            f"there is no checkpoint to resume in {out}; leave --resume out to start a new run"
        )
    return load_config(RunConfig, found / "config.json")


def _reconcile(config: RunConfig, saved: RunConfig, out: Path, given: set[str]) -> RunConfig:
    """The saved configuration with the budget that was asked for; any other difference is an error."""
    asked, kept = flatten(to_dict(config)), flatten(to_dict(saved))
    for key in sorted(asked.keys() | kept.keys()):
        if key not in BUDGET_KEYS and asked.get(key) != kept.get(key):
            raise ValueError(
                f"{key} is {asked.get(key)!r} here and {kept.get(key)!r} in the run {out}; "
                "a run resumes with its own configuration: leave the recipe and this key out, "
                "or start a new run with another --out"
            )
    changed: dict[str, dict[str, Any]] = {"train": {}, "data": {}}
    for key in BUDGET_KEYS:
        if key in given:
            section, _, name = key.partition(".")
            changed[section][name] = asked[key]
    return dataclasses.replace(
        saved,
        train=dataclasses.replace(saved.train, **changed["train"]),
        data=dataclasses.replace(saved.data, **changed["data"]),
    )


def _given_keys(words: Sequence[str]) -> set[str]:
    return {word.lstrip("-").partition("=")[0].replace("-", "_") for word in words if word.startswith("--")}


def _folder(words: Sequence[str]) -> Path:
    """``--out``, needed before the rest can be read."""
    for index, word in enumerate(words):
        if word.startswith("--out="):
            return Path(word.partition("=")[2])
        if word == "--out" and index + 1 < len(words):
            return Path(words[index + 1])
    raise ValueError("--resume needs --out FOLDER, the folder of the run; see `sensorium train --help`")


def _description() -> str:
    budget = ", ".join(key.replace("_", "-") for key in BUDGET_KEYS)
    names = list(recipes.RECIPES)
    full = " and ".join(name for name in names if name not in recipes.EMBEDDED)
    return DESCRIPTION.format(
        recipes=", ".join(names), first=names[0], budget=budget, full=full, folder=mixtures.FULL_DATA
    )
