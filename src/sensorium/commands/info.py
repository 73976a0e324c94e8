"""``sensorium info``: the architecture of a recipe or a model."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from sensorium.commands.arguments import parse
from sensorium.commands.parts import STARTER, starter_model
from sensorium.config import RunConfig

DESCRIPTION = """Show what a recipe builds or a model folder holds: modules, shapes, parameters, tokens for a
picture and for a second of sound, and the operations that a token costs.

Examples:
  sensorium info nano
  sensorium info runs/tiny
  sensorium info nano --json
"""


@dataclass(frozen=True, kw_only=True)
class Info:
    """Arguments of ``sensorium info``."""

    what: Annotated[
        tuple[str, ...],
        tyro.conf.Positional,
        tyro.conf.arg(metavar="[RECIPE | FOLDER]", help_behavior_hint=""),
    ] = ()
    """A recipe, a model folder or a run folder; the starter model if left out."""
    json: bool = False
    """Print one JSON object."""


def main(arguments: Sequence[str]) -> int:
    """Print the architecture."""
    chosen, _ = parse(Info, arguments, verb="info", description=DESCRIPTION)
    if len(chosen.what) > 1:
        raise ValueError(f"info takes one recipe or folder, not {len(chosen.what)}: {' '.join(chosen.what)}")
    config, source = resolve(chosen.what[0] if chosen.what else STARTER)
    from sensorium.commands.architecture import describe

    facts = {"source": source, **describe(config)}
    if chosen.json:
        print(json.dumps(facts))
    else:
        _show(facts, config)
    return 0


def resolve(what: str) -> tuple[RunConfig, str]:
    """A recipe by name, or the configuration in a folder, whose tensors must be those it builds.

    Raises:
        FileNotFoundError, ValueError: neither, or a damaged model.
    """
    from sensorium import recipes

    folder = Path(os.path.expanduser(what))
    if what.removesuffix(recipes.DEBUG) in recipes.RECIPES and not folder.is_dir():
        return recipes.get(what), f"recipe {what}"
    if what == STARTER:
        folder = starter_model()
    if what == "vocoder" and not folder.is_dir():
        raise ValueError(
            "the vocoder turns spectrograms into sound and is no recipe of the model; `sensorium train vocoder --help` says "
            "what it is, docs/sound.md what for"
        )
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{what} is neither a recipe nor a folder; recipes are {', '.join(recipes.RECIPES)}, "
            "and a folder holds a model"
        )
    from sensorium.config import load_config

    if (folder / "last").is_file() and not (folder / "config.json").is_file():
        folder = folder / (folder / "last").read_text().strip()
    config = load_config(RunConfig, folder / "config.json")
    _check_tensors(config, folder / "model.safetensors")
    return config, str(folder)


def _check_tensors(config: RunConfig, path: Path) -> None:
    """Names and shapes in the file against those of the modules, without reading the weights."""
    import safetensors
    import torch

    from sensorium.model.flops import build
    from sensorium.pretrained import load_weights

    if not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist; a model folder holds config.json and model.safetensors"
        )
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118  (no mapping)
    except safetensors.SafetensorError as error:
        raise ValueError(
            f"{path} is damaged ({error}); take another copy or an earlier checkpoint"
        ) from error
    tensors = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    load_weights(build(config.model), tensors, str(path))


def _show(facts: dict[str, Any], config: RunConfig) -> None:
    model = config.model
    print(
        f"{facts['name']} ({facts['source']}): {facts['parameters']:,} parameters, "
        f"tokenizer {facts['tokenizer']}"
    )
    print(
        f"{model.dim} wide, {model.num_layers} layers, {model.num_heads} heads of {model.head_dim} "
        f"({model.num_kv_heads} key-value), feed-forward {model.mlp_dim}, vocabulary {model.vocab_size}, "
        f"latents {model.latent_dim}\n"
    )
    rows = []
    for row in facts["modules"]:
        name, _, number = row["name"].rpartition(".")
        repeated = (
            f"{name}.{number}-{int(number) + row['repeats'] - 1}" if row["repeats"] > 1 else row["name"]
        )
        rows.append((repeated, row["kind"], f"{row['parameters']:,}", _shapes(row["weights"])))
    _table(("module", "kind", "parameters", "weights"), rows)
    print()
    for name, medium in facts["media"].items():
        size, patch = " x ".join(map(str, medium["max_array"])), " x ".join(map(str, medium["patch"]))
        line = f"{name}: at most {size} (channels, height, width), {medium['max_tokens']} patches of {patch}"
        line += ", one token each"
        if "tokens_per_s" in medium:
            line += f" for {medium['max_duration_s']} s, {medium['tokens_per_s']:g} tokens a second"
        print(line)
    flops = facts["flops"]
    print(f"\nFLOPs of one token forward, attending to {flops['context']} tokens; thrice that in training")
    print(f"  = {flops['formula']}")
    for name, value in flops["per_token"].items():
        print(f"  {name:<32}{value / 1e6:10,.2f} M")


def _shapes(weights: dict[str, list[int]], limit: int = 4) -> str:
    """Matrices first, as they hold nearly everything."""
    ordered = sorted(weights.items(), key=lambda item: -len(item[1]))
    shown = [
        f"{name.removesuffix('.weight')} {'x'.join(map(str, shape)) or 'scalar'}"
        for name, shape in ordered[:limit]
    ]
    return ", ".join(shown) + (f", and {len(ordered) - limit} more" if len(ordered) > limit else "")


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    for row in [head, *rows]:
        cells = [
            cell.rjust(w) if i == 2 else cell.ljust(w)
            for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ]
        print("  ".join(cells).rstrip())
