"""Checkpoints: written beside, then renamed, so that a killed process or a full disk loses nothing.

``RUN/step-000200/`` holds the model (averaged weights, for use) and ``training.safetensors`` with
``training.json`` (raw weights, optimiser, counters, to resume). ``RUN/last`` names the newest one.
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import save as to_safetensors
from torch import Tensor

from sensorium.config import RunConfig
from sensorium.model.sensorium import Sensorium
from sensorium.pretrained import (
    WEIGHTS_FILE,
    check_tensors,
    load_weights,
    read_tensors,
    save_model,
    write_file,
)
from sensorium.sequence.tokenizer import Tokenizer
from sensorium.train.optimizer import EMA, MuonAdamW

LAST = "last"
STATE_TENSORS, STATE_JSON = "training.safetensors", "training.json"


def save_checkpoint(
    run: Path,
    step: int,
    model: Sensorium,
    ema: EMA,
    optimizer: MuonAdamW,
    config: RunConfig,
    tokenizer: Tokenizer,
    counters: dict[str, Any],
) -> Path:
    """Write a checkpoint atomically and remove old ones.

    Raises:
        OSError: the disk is full, say. The unfinished folder is removed; earlier checkpoints are untouched.
    """
    final = run / f"step-{step:06d}"
    partial = run / f".{final.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        save_model(partial, ema.weights, config, tokenizer)
        tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
        tensors |= _optimizer_tensors(model, optimizer)
        tensors = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        write_file(partial / STATE_TENSORS, to_safetensors(tensors))
        write_file(partial / STATE_JSON, (json.dumps({"step": step, **counters}, indent=2) + "\n").encode())
        _move(partial, final)
        _point(run / LAST, final.name)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        last = last_checkpoint(run)
        kept = f"the last good checkpoint is {last}" if last else "there is no earlier checkpoint"
        raise OSError(
            error.errno,
            f"cannot save {final} ({error.strerror or error}); free disk space and resume: {kept}",
        ) from error
    for old in _complete(run)[: -config.train.keep_checkpoints]:
        if old != final:
            shutil.rmtree(old, ignore_errors=True)
    return final


def last_checkpoint(run: Path) -> Path | None:
    """The newest complete checkpoint of a run."""
    pointer = run / LAST
    if pointer.is_file():
        folder = run / pointer.read_text().strip()
        if (folder / STATE_JSON).is_file():
            return folder
    # A crash between the rename and the pointer leaves a complete folder that nothing names yet.
    complete = _complete(run)
    return complete[-1] if complete else None


def _complete(run: Path) -> list[Path]:
    """All complete checkpoints, oldest first."""
    found = [folder for folder in run.glob("step-*") if (folder / STATE_JSON).is_file()]
    return sorted(found, key=lambda folder: int(folder.name.removeprefix("step-")))


def load_checkpoint(folder: Path, model: Sensorium, ema: EMA, optimizer: MuonAdamW) -> dict[str, Any]:
    """Restore a run exactly; returns the counters, ``step`` among them."""
    try:
        counters: dict[str, Any] = json.loads((folder / STATE_JSON).read_text())
    except ValueError as error:
        raise ValueError(f"{folder / STATE_JSON} is damaged ({error}); take an earlier checkpoint") from error
    tensors = read_tensors(folder / STATE_TENSORS)
    weights = {
        name.removeprefix("model."): value for name, value in tensors.items() if name.startswith("model.")
    }
    load_weights(model, weights, str(folder / STATE_TENSORS))
    average = read_tensors(folder / WEIGHTS_FILE)
    check_tensors(average, ema.weights, str(folder / WEIGHTS_FILE))
    ema.load(average)
    if counters["step"]:
        _load_optimizer(model, optimizer, tensors, str(folder / STATE_TENSORS))
    return counters


def _optimizer_tensors(model: Sensorium, optimizer: MuonAdamW) -> dict[str, Tensor]:
    """Optimiser state under parameter names: independent of the order of parameters in groups."""
    return {
        f"optimizer.{key}.{name}": value
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
        for key, value in optimizer.state_of(parameter).items()
    }


def _load_optimizer(model: Sensorium, optimizer: MuonAdamW, tensors: dict[str, Tensor], where: str) -> None:
    """Every parameter has a gradient in every step, so every one has all of its optimiser's state."""
    found = {name: value for name, value in tensors.items() if name.startswith("optimizer.")}
    expected = {
        f"optimizer.{kind}.{name}": (kind, parameter)
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
        for kind in optimizer.state_kinds(parameter)
    }
    shapes = {full: found.get(full, p) if kind == "step" else p for full, (kind, p) in expected.items()}
    check_tensors(found, shapes, where)
    for name, value in found.items():
        kind, parameter = expected[name]
        optimizer.state_of(parameter)[kind] = value


def _move(partial: Path, final: Path) -> None:
    """Rename; an earlier folder of the same step comes back if that fails."""
    aside = final.with_name(f".{final.name}.old")
    shutil.rmtree(aside, ignore_errors=True)
    if final.exists():
        os.replace(final, aside)
    try:
        os.replace(partial, final)
    except OSError:
        if aside.exists():
            os.replace(aside, final)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _point(pointer: Path, name: str) -> None:
    partial = pointer.with_name(f".{pointer.name}.partial")
    write_file(partial, (name + "\n").encode())
    os.replace(partial, pointer)
