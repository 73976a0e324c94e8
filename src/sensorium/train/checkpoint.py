"""Checkpoints: written beside, then renamed, so that a killed process or a full disk loses nothing.

``RUN/step-000200/`` holds the model (averaged weights, for use) and ``training.safetensors`` with
``training.json`` (raw weights, optimiser, counters, to resume). With several ranks each writes what it holds to
``training-00001-of-00008.safetensors``: whole tensors and rows of tensors, with their places in the file's header. Any
number of ranks loads either. ``RUN/last`` names the newest one, ``RUN/best`` the one with the lowest validation loss.
"""

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import save as to_safetensors
from torch import Tensor

from sensorium.config import RunConfig
from sensorium.pretrained import WEIGHTS_FILE, check_tensors, save_model, write_file
from sensorium.sequence.tokenizer import Tokenizer
from sensorium.train.optimizer import EMA, MuonAdamW
from sensorium.train.parallel import Piece, Ranks, Shards

LAST, BEST = "last", "best"
STATE_TENSORS, STATE_JSON = "training.safetensors", "training.json"
ROWS = "rows"  # in a header: tensor -> number of its first row and its whole shape


def save_checkpoint(
    run: Path,
    step: int,
    shards: Shards,
    ema: EMA,
    optimizer: MuonAdamW,
    config: RunConfig,
    tokenizer: Tokenizer,
    counters: dict[str, Any],
    *,
    is_best: bool = False,
) -> Path:
    """Write a checkpoint atomically and remove old ones; every rank takes part.

    Raises:
        OSError: the disk is full, say. The unfinished folder is removed; earlier checkpoints are untouched.
    """
    final = run / f"step-{step:06d}"
    partial = run / f".{final.name}.partial"
    ranks = shards.ranks

    def begin() -> None:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)

    def finish() -> None:
        state = {"step": step, "world_size": ranks.world_size, **counters}
        write_file(partial / STATE_JSON, (json.dumps(state, indent=2) + "\n").encode())
        _move(partial, final)
        _point(run / LAST, final.name)
        if is_best:
            _point(run / BEST, final.name)

    try:
        _together(ranks, begin, main_only=True)
        average = {}
        for name, rows in ema.weights.items():
            whole = shards.full(name, rows)
            if ranks.is_main:
                average[name] = whole.cpu()
        _together(ranks, lambda: save_model(partial, average, config, tokenizer), main_only=True)
        _together(ranks, lambda: _write_pieces(partial, _state(shards, optimizer), ranks))
        _together(ranks, finish, main_only=True)
    except OSError as error:
        if ranks.is_main:
            shutil.rmtree(partial, ignore_errors=True)
        last = last_checkpoint(run)
        kept = f"the last good checkpoint is {last}" if last else "there is no earlier checkpoint"
        raise OSError(
            error.errno,
            f"cannot save {final} ({error.strerror or error}); free disk space and resume: {kept}",
        ) from error
    if ranks.is_main:
        kept_folders = {final, _named(run / BEST), *_complete(run)[-config.train.keep_checkpoints :]}
        for old in _complete(run):
            if old not in kept_folders:
                _discard(old)
    return final


def _discard(folder: Path) -> None:
    """Remove a checkpoint. It goes by its name first: half of one that a kill left would never be found again."""
    aside = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(aside, ignore_errors=True)
    with contextlib.suppress(OSError):  # one checkpoint too many is no reason to end a run
        os.replace(folder, aside)
    shutil.rmtree(aside, ignore_errors=True)


def _together(ranks: Ranks, work: Callable[[], Any], *, main_only: bool = False) -> None:
    """Do something on every rank (or on one, while the others wait); where one fails, all do."""
    failed = None
    try:
        if ranks.is_main or not main_only:
            work()
    except OSError as error:
        failed = error
    ranks.check(failed)


def last_checkpoint(run: Path) -> Path | None:
    """The newest complete checkpoint of a run."""
    named = _named(run / LAST)
    if named is not None:
        return named
    # A crash between the rename and the pointer leaves a complete folder that nothing names yet.
    complete = _complete(run)
    return complete[-1] if complete else None


def tidy(run: Path) -> None:
    """Put in order what a process left that was killed while it saved."""
    for aside in run.glob(".step-*.old"):
        final = run / aside.name[1:].removesuffix(".old")
        if not final.exists():
            os.replace(aside, final)
    for rest in (*run.glob(".step-*.old"), *run.glob(".step-*.partial")):
        shutil.rmtree(rest, ignore_errors=True)


def _named(pointer: Path) -> Path | None:
    """The complete checkpoint that a pointer names."""
    if not pointer.is_file():
        return None
    folder = pointer.parent / pointer.read_text().strip()
    return folder if (folder / STATE_JSON).is_file() else None


def _complete(run: Path) -> list[Path]:
    """All complete checkpoints, oldest first."""
    found = [folder for folder in run.glob("step-*") if (folder / STATE_JSON).is_file()]
    return sorted(found, key=lambda folder: int(folder.name.removeprefix("step-")))


def load_checkpoint(folder: Path, shards: Shards, ema: EMA, optimizer: MuonAdamW) -> dict[str, Any]:
    """Restore a run exactly, at any number of ranks; returns the counters, ``step`` among them."""
    try:
        counters: dict[str, Any] = json.loads((folder / STATE_JSON).read_text())
    except ValueError as error:
        raise ValueError(f"{folder / STATE_JSON} is damaged ({error}); take an earlier checkpoint") from error
    saved = SavedRows(_state_files(folder, counters.get("world_size", 1)))
    weights = {f"model.{name}": shards.shape(name) for name in shards.state_dict()}
    moments = _moments(shards, optimizer) if counters["step"] else {}
    saved.check({**weights, **{name: shape for name, (_, _, shape) in moments.items()}})
    for name, rows in shards.state_dict().items():
        rows.copy_(saved.read(f"model.{name}", shards.piece(name, rows)))
    shards.give_weights()
    average = SavedRows([folder / WEIGHTS_FILE])
    average.check({name: shards.shape(name) for name in ema.weights})
    ema.load({name: average.read(name, shards.piece(name, rows)) for name, rows in ema.weights.items()})
    parameters = dict(shards.named_parameters())
    for full_name, (kind, name, shape) in moments.items():
        if name in parameters:
            is_whole = not shape or name in shards.whole
            like = torch.empty(shape, device="meta") if is_whole else shards.local[name].detach()
            piece = Piece(like, 0, shape, True) if is_whole else shards.piece(name, like)
            optimizer.state_of(parameters[name])[kind] = saved.read(full_name, piece).to(
                parameters[name].device
            )
    return counters


def _state(shards: Shards, optimizer: MuonAdamW) -> dict[str, Piece]:
    """What this rank holds of weights and optimiser, under the names of parameters."""
    pieces = {f"model.{name}": shards.piece(name, rows) for name, rows in shards.state_dict().items()}
    for name, parameter in shards.named_parameters():
        if parameter.requires_grad:
            for kind, value in optimizer.state_of(parameter).items():
                pieces[f"optimizer.{kind}.{name}"] = (
                    shards.piece(name, value)
                    if value.ndim
                    else Piece(value, 0, value.shape, shards.ranks.is_main)
                )
    return pieces


def _moments(shards: Shards, optimizer: MuonAdamW) -> dict[str, tuple[str, str, torch.Size]]:
    """Name in the file -> (kind, parameter, whole shape) of all that the optimiser keeps, on whatever rank.

    Every parameter has a gradient in every step, so every one has all of its optimiser's state.
    """
    held = dict(shards.named_parameters())
    found = {}
    for name, parameter in shards.parameters.items():
        if parameter.requires_grad:
            kinds = optimizer.state_kinds(held[name]) if name in held else ("momentum_buffer",)
            for kind in kinds:
                shape = torch.Size() if kind == "step" else shards.shape(name)
                found[f"optimizer.{kind}.{name}"] = (kind, name, shape)
    return found


def _state_files(folder: Path, world_size: int) -> list[Path]:
    if world_size == 1:
        return [folder / STATE_TENSORS]
    stem = STATE_TENSORS.removesuffix(".safetensors")
    return [folder / f"{stem}-{n + 1:05d}-of-{world_size:05d}.safetensors" for n in range(world_size)]


def _write_pieces(folder: Path, pieces: Mapping[str, Piece], ranks: Ranks) -> None:
    kept = {name: piece for name, piece in pieces.items() if piece.is_saved}
    rows = {name: [p.start, *p.shape] for name, p in kept.items() if p.tensor.shape != p.shape}
    tensors = {name: piece.tensor.detach().cpu().contiguous() for name, piece in kept.items()}
    metadata = {ROWS: json.dumps(rows)} if rows else None
    path = _state_files(folder, ranks.world_size)[ranks.rank]
    write_file(path, to_safetensors(tensors, metadata=metadata))


class SavedRows:
    """Tensors that lie in one or several safetensors files, whole or in rows; only what is asked for is read.

    Raises:
        FileNotFoundError, ValueError: naming the file and the mend.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self.where = str(files[0]) if len(files) == 1 else f"{files[0].parent}/{files[0].name[:9]}*"
        self.shapes: dict[str, torch.Size] = {}
        self.parts: dict[str, list[tuple[int, int, Path]]] = {}  # first row, one past the last, file
        for path in files:
            with _opened(path) as file:
                places = json.loads((file.metadata() or {}).get(ROWS, "{}"))
                for name in file.keys():  # noqa: SIM118  (no mapping)
                    shape = file.get_slice(name).get_shape()
                    start, *whole = places.get(name, [0, *shape])
                    self.shapes[name] = torch.Size(whole)
                    num_rows = shape[0] if shape else 1
                    self.parts.setdefault(name, []).append((start, start + num_rows, path))

    def check(self, expected: Mapping[str, torch.Size]) -> None:
        """Names and shapes against those of the run."""
        found, wanted = (
            {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
            for shapes in (self.shapes, expected)
        )
        check_tensors(found, wanted, self.where)

    def read(self, name: str, piece: Piece) -> Tensor:
        """The rows of a tensor that a piece stands for."""
        if piece.shape and not len(piece.tensor):
            return piece.tensor.new_empty(piece.tensor.shape)
        stop = piece.start + (len(piece.tensor) if piece.shape else 1)
        found, at = [], piece.start
        for first, last, path in sorted(self.parts[name]):
            if first <= at < min(last, stop):
                with _opened(path) as file:
                    if not piece.shape:
                        return file.get_tensor(name)
                    found.append(file.get_slice(name)[at - first : min(last, stop) - first])
                at = min(last, stop)
        if at != stop:
            raise ValueError(
                f"{self.where} lacks rows {at} to {stop} of the tensor {name!r}; take another copy or an earlier "
                "checkpoint"
            )
        return torch.cat(found) if len(found) != 1 else found[0]


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; take another copy or an earlier checkpoint")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            yield file
    except safetensors.SafetensorError as error:
        raise ValueError(
            f"{path} is damaged ({error}); take another copy or an earlier checkpoint"
        ) from error


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
