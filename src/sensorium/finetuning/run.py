"""A fine-tuning from model to model: plan, train, keep the best, say what came of it."""

import dataclasses
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sensorium.config import RunConfig, load_config
from sensorium.finetuning.figures import Quiz, make_quiz
from sensorium.finetuning.plan import Options, make_config
from sensorium.finetuning.rows import DIVIDED, IMPORTED, open_rows
from sensorium.generate.interface import Model, find_model
from sensorium.generate.requests import check_known
from sensorium.pretrained import CONFIG_FILE, TOKENIZER_FILE, WEIGHTS_FILE, load_model, write_file
from sensorium.train.checkpoint import BEST, last_checkpoint
from sensorium.train.evaluate import SPLIT as VALIDATION
from sensorium.train.metrics import read_metrics
from sensorium.train.trainer import Trainer

PLAN, RESULT = "plan.json", "finetune.json"


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a fine-tuning has come to.

    Args:
        folder: of the adapted model.
        loss: held-out loss of the model as it was ("before") and of what was written ("after").
        task: what the held-out rows ask, in words; "" where they ask nothing that is right or wrong.
        share: of them right before, after, and by each baseline, in [0, 1].
        best_step: of what was written; 0 is the model as it was. step: the last one done.
        is_early: whether held-out losses ended the run before its budget.
    """

    folder: Path
    loss: dict[str, float]
    task: str
    share: dict[str, float]
    best_step: int
    step: int
    is_early: bool


def finetune(
    model: str | Path | None,
    data: str | Path,
    out: str | Path,
    *,
    say: Callable[[str], None] = print,
    **options: Any,
) -> Result:
    """Adapt a model to data; what is written is the checkpoint with the lowest loss on rows never trained on.

    Args:
        model: a model folder, a run folder, or None or "starter" for the model that ships with the package.
        data: a folder of pictures or sounds, a table, shards, "starter:NAME": what ``sensorium data import`` knows.
        out: folder of the run and of the new model; ``sm.load(out)`` opens it.
        say: takes what a person is told.
        options: fields of ``Options``: train, templates, held_out, replay, num_steps, max_train_s, lr, ...

    Returns:
        Figures before and after, and where the model is.

    Raises:
        FileNotFoundError, FileExistsError, ValueError: what cannot be used, and what to do.
        KeyboardInterrupt: after Ctrl-C or SIGTERM, once the best so far is written; ``resume`` goes on.
    """
    check_known(options, Options)
    chosen, folder = Options(**options), Path(out)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} is there already; add --resume to go on, or choose another --out")
    start = find_model(model).resolve()
    _, _, base = load_model(start)
    try:
        rows = open_rows(str(data), folder, held_out=chosen.held_out, seed=chosen.seed)
        config, replayed = make_config(base, rows, chosen)
    except BaseException:
        for name in (IMPORTED, DIVIDED):
            shutil.rmtree(folder / name, ignore_errors=True)
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
        raise
    folder.mkdir(parents=True, exist_ok=True)
    about = {
        "model": str(start),
        "data": str(data),
        "learn from": rows.num_rows,
        "hold out": rows.num_held_out,
        "held out are": rows.how,
        "replay": replayed,
    }
    write_file(folder / PLAN, (json.dumps(about, indent=2) + "\n").encode())
    for notice in rows.notices:
        say(f"note       {notice}")
    return _train(Trainer(config, folder, start=start), about, say)


def resume(out: str | Path, *, say: Callable[[str], None] = print) -> Result:
    """Go on with a fine-tuning that was stopped, exactly.

    Raises:
        FileNotFoundError, ValueError: there is nothing to go on with.
    """
    folder = Path(out)
    found = last_checkpoint(folder)
    if not found or not (folder / PLAN).is_file():
        raise FileNotFoundError(
            f"{folder} holds no checkpoint of a fine-tuning; leave --resume out, and delete what is there or choose another --out"
        )
    trainer = Trainer(load_config(RunConfig, found / CONFIG_FILE), folder, resume=True, start=found)
    if trainer.is_done and (folder / RESULT).is_file():
        raise ValueError(
            f"{folder} is finished at step {trainer.step}; to learn more, adapt it in turn: "
            f"sensorium finetune {folder} DATA --out FOLDER"
        )
    return _train(trainer, json.loads((folder / PLAN).read_text(encoding="utf-8")), say)


def _train(trainer: Trainer, about: dict[str, Any], say: Callable[[str], None]) -> Result:
    config, folder = trainer.config, trainer.run_folder
    own = config.data.sources[0]
    quiz = make_quiz(own.path, own.templates, asked=VALIDATION)
    say(_plan_in_words(trainer, about))
    try:
        trainer.train()
    except KeyboardInterrupt:
        if (folder / BEST).is_file():
            _publish(folder)
            say(
                f"\nstopped at step {trainer.step}; {folder} is the best so far; go on with: "
                f"sensorium finetune --resume --out {folder}"
            )
        raise
    for left_out, why in ((trainer.loader.bad, "unusable"), (trainer.loader.over_budget, "too large")):
        if left_out:
            say(f"left out as {why}: {len(left_out)} samples ({', '.join(list(left_out)[:5])})")
    result = _finish(trainer, about, quiz)
    say(_result_in_words(result))
    return result


def _plan_in_words(trainer: Trainer, about: dict[str, Any]) -> str:
    config, train = trainer.config, trainer.config.train
    counts = [(p.numel(), p.requires_grad) for p in trainer.model.parameters()]
    trained, total = sum(n for n, is_trained in counts if is_trained), sum(n for n, _ in counts)
    templates = ", ".join(f"{name} {weight:g}" for name, weight in config.data.sources[0].templates.items())
    limit = f", {train.max_train_s:g} s at most" if train.max_train_s else ""
    stops = f"; ends after {train.patience} held-out losses without a new lowest" if train.patience else ""
    lines = {
        "model": about["model"],
        "data": about["data"],
        "learns": f"from {about['learn from']:,} rows, as {templates}",
        "holds out": f"{about['hold out']:,} rows, never trained on: {about['held out are']}",
        "replays": about["replay"],
        "trains": f"{trained:,} of {total:,} parameters, learning rate {train.lr:g}, seed {train.seed}",
        "budget": f"{train.num_steps:,} steps of {config.data.samples_per_step} samples{limit}{stops}",
    }
    return "\n".join(f"{name:<11}{text}" for name, text in lines.items())


def _finish(trainer: Trainer, about: dict[str, Any], quiz: Quiz | None) -> Result:
    """Write the best checkpoint as the model of the folder, and what it can do."""
    folder, start = trainer.run_folder, Path(about["model"])
    best_step = _publish(folder)
    losses = {line["step"]: line["val_loss"] for line in read_metrics(folder) if "val_loss" in line}
    share = {}
    if quiz:
        models = {"before": start, "after": folder}
        share = {when: quiz.score(Model.from_pretrained(path)) for when, path in models.items()}
        share |= quiz.baselines()
    result = Result(
        folder=folder,
        loss={"before": losses[0], "after": losses[best_step]},
        task=f"{quiz.words}, {len(quiz.asked)} held-out rows" if quiz else "",
        share=share,
        best_step=best_step,
        step=trainer.step,
        is_early=trainer.progress < 1.0,
    )
    values = {**about, **dataclasses.asdict(result), "folder": str(folder)}
    write_file(folder / RESULT, (json.dumps(values, indent=2) + "\n").encode())
    return result


def _publish(folder: Path) -> int:
    """The best checkpoint becomes the model of the run's folder; returns its step."""
    name = (folder / BEST).read_text().strip()
    for file in (WEIGHTS_FILE, TOKENIZER_FILE, CONFIG_FILE):
        partial = folder / f".{file}.partial"
        shutil.copyfile(folder / name / file, partial)
        os.replace(partial, folder / file)
    return int(name.removeprefix("step-"))


def _result_in_words(result: Result) -> str:
    ended = "early, the held-out loss no longer fell" if result.is_early else "its budget is used up"
    lines = [
        f"ended at step {result.step} ({ended}); kept: step {result.best_step}"
        + ("" if result.best_step else ", the model as it was: nothing that was learned helped"),
        f"held-out loss {result.loss['before']:.3f} before, {result.loss['after']:.3f} after",
    ]
    if result.share:
        beside = ", ".join(
            f"{name} {v:.1%}" for name, v in result.share.items() if name not in ("before", "after")
        )
        lines.append(
            f"{result.task}: {result.share['before']:.1%} before, {result.share['after']:.1%} after; {beside}"
        )
    lines += [f"saved {result.folder}", f"try it: sensorium chat --model {result.folder}"]
    return "\n".join(lines)
