"""What a configuration builds, read from the modules themselves, as JSON values."""

from typing import Any

from torch import nn

from sensorium.config import ModalityConfig, RunConfig
from sensorium.media.audio import HOP_LENGTH, SAMPLE_RATE
from sensorium.model.flops import FORMULA, build, flops_per_token
from sensorium.model.sensorium import Sensorium


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


def _is_container(module: nn.Module) -> bool:
    return isinstance(module, nn.ModuleDict | nn.ModuleList)


def _parts(model: Sensorium) -> list[tuple[str, nn.Module]]:
    """Rows of the table: stems, blocks, heads' parts; never smaller than what a reader wants to see."""
    out: list[tuple[str, nn.Module]] = []
    for name, module in model.named_children():
        if isinstance(module, nn.ModuleDict):
            for key, entry in module.items():
                # A layer that stands alone is a part itself.
                for part, child in list(entry.named_children()) or [("", entry)]:
                    items = child.named_children() if isinstance(child, nn.ModuleList) else [("", child)]
                    out += [
                        (".".join(filter(None, (name, key, part, number))), item) for number, item in items
                    ]
        elif isinstance(module, nn.ModuleList):
            out += [(f"{name}.{number}", item) for number, item in module.named_children()]
        else:
            out.append((name, module))
    return out
