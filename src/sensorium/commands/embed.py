"""``sensorium embed``: parts to vectors."""

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from sensorium.commands.arguments import parse
from sensorium.commands.parts import STARTER, SYNTAX, Medium, open_model, read_part

DESCRIPTION = f"""Turn words, pictures and sounds into unit vectors of one space: the dot product of two is
how alike they are. Prints one JSON object a line: {{"part": ..., "embedding": [...]}}.

{SYNTAX}

Without parts, or with -, parts are read from standard input, one a line; empty lines are skipped.

Examples:
  sensorium embed "a cat" cat.png meow.wav
  sensorium embed *.png --out pictures.npy
  ls photos/*.jpg | sensorium embed --out photos.jsonl --model runs/tiny
"""
CHUNK = 256  # parts whose vectors are computed and written together


@dataclass(frozen=True, kw_only=True)
class Embed:
    """Arguments of ``sensorium embed``."""

    parts: Annotated[
        tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[PART ...]", help_behavior_hint="")
    ] = ()
    """Words, pictures and sounds; each becomes one vector."""
    model: Annotated[str, tyro.conf.arg(metavar="FOLDER")] = STARTER
    """A model folder or a run folder."""
    out: Annotated[str, tyro.conf.arg(metavar="FILE", help_behavior_hint="(default: standard output)")] = ""
    """.npy (float32, a row for each part) or .jsonl."""
    json: bool = False
    """Print one JSON object with all parts and vectors (with --out: with what was written)."""


def main(arguments: Sequence[str]) -> int:
    """Embed and write."""
    chosen, _ = parse(Embed, arguments, verb="embed", description=DESCRIPTION)
    out = Path(chosen.out).expanduser() if chosen.out else None
    if out and out.suffix not in (".npy", ".jsonl"):
        raise ValueError(f"cannot write vectors to {out.name}; use .npy or .jsonl")
    if out and not out.parent.is_dir():
        raise FileNotFoundError(f"{out.parent}: no such folder to save {out.name} in; make it first")
    names = list(_names(chosen.parts))
    if not names:
        raise ValueError("there is nothing to embed; give some text, a picture or a sound")
    parts = [_part(number, name) for number, name in enumerate(names, 1)]
    model = open_model(chosen.model)
    rows: list[np.ndarray] = []
    lines = out.open("w", encoding="utf-8") if out and out.suffix == ".jsonl" else None
    for start in range(0, len(parts), CHUNK):
        vectors = model.embed(parts[start : start + CHUNK])
        if out or chosen.json:
            rows.append(vectors)
        if lines or not (out or chosen.json):
            for name, vector in zip(names[start : start + CHUNK], vectors, strict=True):
                print(_line(name, vector), file=lines or sys.stdout, flush=not lines)
    if lines:
        lines.close()
    if out or chosen.json:
        _finish(np.concatenate(rows), names, chosen, out)
    return 0


def _finish(vectors: np.ndarray, names: list[str], chosen: Embed, out: Path | None) -> None:
    if out and out.suffix == ".npy":
        np.save(out, vectors)
    summary = {"model": chosen.model, "shape": list(vectors.shape)}
    if chosen.json:
        extra = (
            {"file": str(out)} if out else {"parts": names, "embeddings": [_numbers(row) for row in vectors]}
        )
        print(json.dumps(summary | extra, ensure_ascii=False))
    else:
        print(f"{out}: {vectors.shape[0]} vectors of {vectors.shape[1]} numbers")


def _names(parts: Sequence[str]) -> Iterator[str]:
    """Parts as typed; "-", or none at all, stands for the lines of standard input."""
    for part in parts or ("-",):
        if part != "-":
            yield part
        elif sys.stdin.isatty() and not parts:
            return
        else:
            yield from (line.rstrip("\r\n") for line in sys.stdin if line.strip())


def _part(number: int, name: str) -> str | Medium:
    try:
        return read_part(name)
    except ValueError as error:
        raise ValueError(f"part {number}: {error}") from error


def _line(name: str, vector: np.ndarray) -> str:
    return json.dumps({"part": name, "embedding": _numbers(vector)}, ensure_ascii=False)


def _numbers(vector: np.ndarray) -> list[float]:
    """As short as float32 allows: the same numbers come back."""
    return [float(str(value)) for value in vector]
