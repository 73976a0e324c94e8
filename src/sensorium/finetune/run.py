"""A fine-tuning from model to model: plan, train, keep the best."""

import dataclasses
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sensorium.config import RunConfig, load_config
from sensorium.finetune.plan import Options, make_plan
from sensorium.generate.interface import find_model
from sensorium.pretrained import CONFIG_FILE, TOKENIZER_FILE, WEIGHTS_FILE, load_model, write_file
from sensorium.train.checkpoint import BEST, last_checkpoint
from sensorium.train.metrics import read_metrics
from sensorium.train.trainer import Trainer

RUN, ROWS, PLAN, RESULT = "run", "rows", "plan.json", "finetune.json"


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a fine-tuning has come to.

    Args:
        folder: of the adapted model.
        before, after: loss on the held-out rows of the model as it was, and of what was written.
        best_step: of what was written; 0 is the model as it was. step: the last one done.
        is_early: whether held-out losses ended the run before its budget.
        trained: part of the model -> parameters trained.
    """

    folder: Path
    before: float
    after: float
    best_step: int
    step: int
    is_early: bool
    trained: dict[str, int]


def finetune(
    model: str | Path | None,
    data: str | Path,
    out: str | Path,
    options: Options | None = None,
    *,
    say: Callable[[str], None] = print,
) -> Result:
    """Adapt a model to data; what is written is the checkpoint with the lowest loss on rows never trained on.

    Args:
        model: a model folder, a run folder, or None or "starter" for the model that ships with the package.
        data: a Parquet file, a folder of shards, "starter:NAME", or an address of an object store.
        out: the new model's folder; its ``run`` has the checkpoints, metrics and curves.
        say: takes what a person is told.

    Raises:
        FileNotFoundError, FileExistsError, ValueError: what cannot be used, and what to do.
        KeyboardInterrupt: after Ctrl-C, once the best so far is written.
    """
    options, folder = options or Options(), Path(out)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} is there already; add --resume to go on, or choose another --out")
    start = find_model(model).resolve()
    _, _, base = load_model(start)
    source = str(data)
    if "://" not in source and not source.startswith("starter:"):
        source = str(Path(source).expanduser().resolve())
    try:
        plan = make_plan(base, source, options, folder / ROWS)
    except BaseException:
        shutil.rmtree(folder / ROWS, ignore_errors=True)
        raise
    folder.mkdir(parents=True, exist_ok=True)
    about = {
        "model": str(start),
        "data": source,
        "rows": {"trained on": plan.num_rows, "held out": plan.num_held_out, "held out are": plan.held_out},
    }
    write_file(folder / PLAN, (json.dumps(about, indent=2) + "\n").encode())
    trainer = Trainer(plan.config, folder / RUN, start=start)
    return _train(trainer, folder, about, say)


def resume(
    out: str | Path,
    *,
    num_steps: int | None = None,
    max_train_s: float | None = None,
    patience: int | None = None,
    say: Callable[[str], None] = print,
) -> Result:
    """Go on with a fine-tuning that was stopped, exactly; only its budget may change.

    Raises:
        FileNotFoundError, ValueError: there is nothing to go on with.
    """
    folder = Path(out)
    found = last_checkpoint(folder / RUN)
    if not found or not (folder / PLAN).is_file():
        raise FileNotFoundError(f"{folder} holds no fine-tuning to resume; leave --resume out to start one")
    config = load_config(RunConfig, found / CONFIG_FILE)
    asked = {"num_steps": num_steps, "max_train_s": max_train_s, "patience": patience}
    changed: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, **changed))
    trainer = Trainer(config, folder / RUN, resume=True, start=found)
    if trainer.is_done:
        raise ValueError(
            f"{folder} is finished at step {trainer.step}; to go on, give a larger --steps, --seconds or --patience"
        )
    return _train(trainer, folder, json.loads((folder / PLAN).read_text(encoding="utf-8")), say)


def _train(trainer: Trainer, folder: Path, about: dict[str, Any], say: Callable[[str], None]) -> Result:
    trained = Counter[str]()
    for name, parameter in trainer.model.named_parameters():
        if parameter.requires_grad:
            trained[_part(name)] += parameter.numel()
    config, rows = trainer.config, about["rows"]
    mixture = ", ".join(f"{s.path} {s.weight:.0%}" for s in config.data.sources)
    say(
        f"model      {about['model']}\n"
        f"trains     {trained.total():,} of {sum(p.numel() for p in trainer.model.parameters()):,} parameters: "
        + ", ".join(f"{part} {count:,}" for part, count in trained.items())
        + f"\nrows       {rows['trained on']:,} to learn from, {rows['held out']:,} held out ({rows['held out are']})\n"
        f"templates  {', '.join(f'{name}:{w:g}' for name, w in config.data.sources[0].templates.items())}\n"
        f"mixture    {mixture}\n"
        f"budget     {config.train.num_steps:,} steps"
        + (f" or {config.train.max_train_s:g} s" if config.train.max_train_s else "")
        + f", learning rate {config.train.lr:g}; ends after {config.train.patience} held-out losses without a new lowest"
    )
    try:
        trainer.train()
    except KeyboardInterrupt:
        if (trainer.run_folder / BEST).is_file():
            result = _finish(trainer, folder, about, dict(trained))
            say(
                f"\nstopped at step {result.step}; {folder} is the best so far (step {result.best_step}); "
                f"go on with: sensorium finetune --resume --out {folder}"
            )
        raise
    for left_out, why in ((trainer.loader.bad, "unusable"), (trainer.loader.over_budget, "too large")):
        if left_out:
            say(f"left out as {why}: {len(left_out)} samples ({', '.join(list(left_out)[:5])})")
    return _finish(trainer, folder, about, dict(trained))


def _finish(trainer: Trainer, folder: Path, about: dict[str, Any], trained: dict[str, int]) -> Result:
    """Write the best checkpoint as the model of the folder, and how it came to be."""
    name = (trainer.run_folder / BEST).read_text().strip()
    for file in (WEIGHTS_FILE, TOKENIZER_FILE, CONFIG_FILE):
        partial = folder / f".{file}.partial"
        shutil.copyfile(trainer.run_folder / name / file, partial)
        os.replace(partial, folder / file)
    losses = {line["step"]: line["val_loss"] for line in read_metrics(trainer.run_folder) if "val_loss" in line}
    best_step = int(name.removeprefix("step-"))
    result = Result(
        folder=folder,
        before=losses[0],
        after=losses[best_step],
        best_step=best_step,
        step=trainer.step,
        is_early=trainer.progress < 1.0 and trainer.is_done,
        trained=trained,
    )
    values = {**about, **dataclasses.asdict(result), "folder": str(folder)}
    write_file(folder / RESULT, (json.dumps(values, indent=2) + "\n").encode())
    return result


def _part(name: str) -> str:
    """``media_heads.image.out.weight`` -> ``media_heads.image.out``; of the trunk and encoders the whole part."""
    words = name.split(".")
    return ".".join(words[:3] if words[0] == "media_heads" else words[:2] if words[0] == "encoders" else words[:1])
