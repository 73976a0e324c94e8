"""Loading and saving models: a folder with config.json, model.safetensors and tokenizer.json. No pickle."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

import safetensors
import torch
from safetensors.torch import save as to_safetensors
from torch import Tensor

from sensorium.config import RunConfig, load_config, to_dict
from sensorium.model.sensorium import Sensorium
from sensorium.sequence.tokenizer import Tokenizer

CONFIG_FILE, WEIGHTS_FILE, TOKENIZER_FILE = "config.json", "model.safetensors", "tokenizer.json"


def write_file(path: Path, data: bytes) -> None:
    """Write and flush to the disk, so that a rename after it never names half a file."""
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def save_model(folder: Path, weights: Mapping[str, Tensor], config: RunConfig, tokenizer: Tokenizer) -> None:
    """Write a model into an existing folder (see ``train.checkpoint`` for the atomic way)."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    write_file(folder / WEIGHTS_FILE, to_safetensors(tensors, metadata={"format": "sensorium"}))
    write_file(folder / TOKENIZER_FILE, tokenizer.backend.to_str().encode())
    write_file(folder / CONFIG_FILE, (json.dumps(to_dict(config), indent=2) + "\n").encode())


def read_tensors(path: Path, device: str = "cpu") -> dict[str, Tensor]:
    """All tensors of a safetensors file; a broken or missing file is one clear sentence."""
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist; a model folder holds {CONFIG_FILE} and {WEIGHTS_FILE}"
        )
    try:
        with safetensors.safe_open(path, framework="pt", device=device) as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (no mapping)
    except safetensors.SafetensorError as error:
        raise ValueError(
            f"{path} is damaged ({error}); take another copy or an earlier checkpoint"
        ) from error


def load_weights(model: Sensorium, tensors: dict[str, Tensor], where: str) -> None:
    """Copy tensors into a model; a missing, unknown or misshapen tensor is an error that names it.

    A model from before ``PatchHead.tint`` has none: one of zeros copies what it copied.
    """
    wanted = model.state_dict()
    tints = {
        name: torch.zeros_like(tensor)
        for name, tensor in wanted.items()
        if name.split(".")[2:3] == ["tint"] and name not in tensors
    }
    check_tensors(tensors | tints, wanted, where)
    model.load_state_dict(tensors | tints)


def check_tensors(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], where: str) -> None:
    """Compare names and shapes.

    Raises:
        ValueError: naming the first tensor that is missing, unknown or misshapen.
    """
    missing, unknown = sorted(expected.keys() - tensors.keys()), sorted(tensors.keys() - expected.keys())
    if missing:
        raise ValueError(
            f"{where} lacks the tensor {missing[0]!r}"
            + (f" and {len(missing) - 1} more" if len(missing) > 1 else "")
            + "; it was written for another configuration or is incomplete: take another copy or "
            "an earlier checkpoint"
        )
    if unknown:
        raise ValueError(
            f"{where} has the unknown tensor {unknown[0]!r}; it was written for another configuration"
        )
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape:
            raise ValueError(
                f"{where}: tensor {name!r} has shape {tuple(tensor.shape)}, the configuration needs "
                f"{tuple(expected[name].shape)}"
            )


def load_model(folder: str | Path) -> tuple[Sensorium, Tokenizer, RunConfig]:
    """Read a model folder.

    Raises:
        FileNotFoundError, ValueError: naming the file and the mend.
    """
    root = Path(folder)
    if not root.is_dir():
        raise FileNotFoundError(
            f"no model folder at {root}; give starter (the model that ships with the package), the folder of a run "
            f"(`sensorium runs` lists them; a recipe is a model once it is trained), or a folder that holds {CONFIG_FILE} "
            f"and {WEIGHTS_FILE}"
        )
    config = load_config(RunConfig, root / CONFIG_FILE)
    tokenizer = Tokenizer.load(root / TOKENIZER_FILE)
    if tokenizer.vocab_size > config.model.vocab_size:
        raise ValueError(
            f"{root}: the tokenizer has {tokenizer.vocab_size} ids and the model {config.model.vocab_size}; "
            f"{TOKENIZER_FILE} belongs to another model"
        )
    model = Sensorium(config.model)
    load_weights(model, read_tensors(root / WEIGHTS_FILE), str(root / WEIGHTS_FILE))
    return model.eval(), tokenizer, config
