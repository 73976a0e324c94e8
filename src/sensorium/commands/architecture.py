"""What a configuration builds, read from the modules themselves, and what a token costs in FLOPs.

A multiplication and an addition are two operations. For one token, one pass forward::

    FLOPs = 2 x weights used for the token + 4 x layers x heads x head_dim x tokens attended to

A weight of a matrix is used once for a token. A weight of a convolution is used once for each position it
puts out, so it counts as often as there are such positions for each token. Looking an embedding up is free;
norms, rotations and activations are left out. A test holds this against PyTorch's own counter.
A training step costs about three passes forward.
"""

from typing import Any

import torch
from torch import nn

from sensorium.config import ModalityConfig, ModelConfig, RunConfig
from sensorium.media.audio import HOP_LENGTH, SAMPLE_RATE
from sensorium.model.encoders import MediaEncoder
from sensorium.model.heads import PatchHead
from sensorium.model.layers import Block
from sensorium.model.sensorium import Sensorium

FORMULA = "2 x weights used for the token + 4 x layers x heads x head_dim x tokens attended to"


def build(config: ModelConfig) -> Sensorium:
    """The model without its memory: shapes only, whatever the size."""
    with torch.device("meta"):
        return Sensorium(config)


def describe(config: RunConfig) -> dict[str, Any]:
    """Modules, parameters, media and costs of a configuration, as JSON values."""
    model, context = build(config.model), config.data.row_length
    return {
        "name": config.name,
        "tokenizer": config.tokenizer,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "modules": modules(model),
        "media": {name: medium(name, modality) for name, modality in config.model.modalities.items()},
        "flops": {"formula": FORMULA, "context": context, "per_token": flops_per_token(model, context)},
    }


def modules(model: Sensorium) -> list[dict[str, Any]]:
    """Every part that holds weights, in the order of the model; equal layers stand in one row."""
    rows: list[dict[str, Any]] = []
    for name, module in _parts(model):
        weights = {
            key: list(value.shape)
            for key, value in module.named_parameters(recurse=not _is_container(module))
        }
        if not weights:
            continue
        kind, num = type(module).__name__, sum(p.numel() for p in module.parameters())
        last = rows[-1] if rows else None
        same = (
            last and last["kind"] == kind and last["weights"] == weights and name.rpartition(".")[2].isdigit()
        )
        if last and same:
            last["repeats"] += 1
            last["parameters"] += num
        else:
            rows.append({"name": name, "kind": kind, "repeats": 1, "parameters": num, "weights": weights})
    own = {key: list(value.shape) for key, value in model.named_parameters(recurse=False)}
    num_own = sum(value.numel() for value in model.parameters(recurse=False))
    rows.append(
        {"name": "(scalars)", "kind": "Parameter", "repeats": 1, "parameters": num_own, "weights": own}
    )
    return rows


def medium(name: str, modality: ModalityConfig) -> dict[str, Any]:
    """Size in arrays, patches and tokens; for a sound also tokens and frames a second."""
    rows, columns = modality.max_grid
    out: dict[str, Any] = {
        "max_array": [modality.channels, *modality.max_size],
        "patch": list(modality.patch),
        "max_grid": [rows, columns],
        "max_tokens": rows * columns,
    }
    if name == "audio":
        frames_per_s = SAMPLE_RATE / HOP_LENGTH
        out["tokens_per_s"] = round(frames_per_s / modality.patch[0] * columns, 3)
        out["max_duration_s"] = round(modality.max_size[0] / frames_per_s, 2)
    return out


def flops_per_token(model: Sensorium, context: int) -> dict[str, float]:
    """FLOPs of one pass forward for each kind of token that attends to ``context`` tokens in the trunk."""
    config = model.config
    trunk = _trunk(model) + attention(config, config.num_layers, context)
    out: dict[str, float] = {"text": trunk + 2 * config.vocab_size * config.dim}
    for name, modality in config.modalities.items():
        encoder, head = model.encoders[name], model.media_heads[name]
        assert isinstance(encoder, MediaEncoder)
        assert isinstance(head, PatchHead)
        num_tokens = modality.max_grid[0] * modality.max_grid[1]
        out[f"{name}, seen"] = trunk + _encoder(encoder, num_tokens)
        out[f"{name}, generated (each step)"] = trunk + _head(head, modality, num_tokens)
    return out


def attention(config: ModelConfig, num_layers: int, num_keys: int) -> int:
    """Queries times keys, and weights times values, for one token."""
    return 4 * num_layers * config.num_heads * config.head_dim * num_keys


def _trunk(model: Sensorium) -> int:
    """Matrices of the trunk for one token: with experts it uses one of the two feed-forwards."""
    blocks = [layer for layer in model.layers if isinstance(layer, Block)]
    return sum(_linears(b) - (_linears(b.noisy_mlp) if b.noisy_mlp is not None else 0) for b in blocks)


def _encoder(encoder: MediaEncoder, num_tokens: int) -> float:
    blocks = sum(_linears(block) for block in encoder.blocks)
    return _stem(encoder.stem) + blocks + attention(encoder.config, len(encoder.blocks), num_tokens)


def _stem(stem: nn.Module) -> float:
    convolutions = [m for m in stem.modules() if isinstance(m, nn.Conv2d)]
    total, positions = float(_linears(stem)), 1
    # From the last layer, which puts out one position for each token, back to the first.
    for convolution in reversed(convolutions):
        total += 2 * convolution.weight.numel() * positions
        positions *= convolution.stride[0] * convolution.stride[1]
    return total


def _head(head: PatchHead, modality: ModalityConfig, num_tokens: int) -> float:
    pixels = modality.patch[0] * modality.patch[1]
    refiner = [m for m in (head.refiner or []) if isinstance(m, nn.Conv2d)]
    # The noise level is embedded once for a medium.
    level = _linears(head.noise_level) / num_tokens
    return (
        _linears(head.stem) + _linears(head.out) + level + sum(2 * m.weight.numel() * pixels for m in refiner)
    )


def _linears(module: nn.Module) -> int:
    return sum(2 * m.weight.numel() for m in module.modules() if isinstance(m, nn.Linear))


def _is_container(module: nn.Module) -> bool:
    return isinstance(module, nn.ModuleDict | nn.ModuleList)


def _parts(model: Sensorium) -> list[tuple[str, nn.Module]]:
    """Rows of the table: stems, blocks, heads' parts; never smaller than what a reader wants to see."""
    out: list[tuple[str, nn.Module]] = []
    for name, module in model.named_children():
        if isinstance(module, nn.ModuleDict):
            for key, entry in module.items():
                for part, child in entry.named_children():
                    items = child.named_children() if isinstance(child, nn.ModuleList) else [("", child)]
                    out += [
                        (".".join(filter(None, (name, key, part, number))), item) for number, item in items
                    ]
        elif isinstance(module, nn.ModuleList):
            out += [(f"{name}.{number}", item) for number, item in module.named_children()]
        else:
            out.append((name, module))
    return out
