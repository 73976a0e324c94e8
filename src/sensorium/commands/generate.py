"""``sensorium generate``: one prompt, one answer."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from sensorium.commands.arguments import parse
from sensorium.commands.parts import STARTER, SYNTAX, check_part, modality_of_path, open_model, read_part

DESCRIPTION = f"""Answer a prompt in text, a picture or a sound. The parts of the prompt are taken in order.

{SYNTAX}

A picture or sound alone is named; words alone are drawn or sounded (--output); anything else is a question.

Examples:
  sensorium generate photo.png "what is this?"
  sensorium generate "a red car" --out car.png
  sensorium generate "rain" --output audio --duration-s 2 --seed 7
  sensorium generate memo.flac "transcribe" --json
  echo "name three fruits" | sensorium generate - --model runs/tiny --temperature 0.8
"""
# Files that can be written; checked before the work, not after it.
WRITABLE = {"image": (".png", ".jpg", ".jpeg", ".webp"), "audio": (".wav", ".flac")}


@dataclass(frozen=True, kw_only=True)
class Generate:
    """Arguments of ``sensorium generate``. Defaults are those of ``TextOptions`` and ``MediaOptions``."""

    prompt: Annotated[
        tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="PART ...", help_behavior_hint="")
    ] = ()
    """Words, pictures and sounds, in any order and number."""
    model: Annotated[str, tyro.conf.arg(metavar="FOLDER")] = STARTER
    """A model folder or a run folder."""
    output: Annotated[
        str, tyro.conf.arg(metavar="KIND", help_behavior_hint="(default: by the suffix of --out, else text)")
    ] = ""
    """text, image or audio."""
    out: Annotated[
        str, tyro.conf.arg(metavar="FILE", help_behavior_hint="(default: image.png, audio.wav)")
    ] = ""
    """Where the answer is saved; text goes to the terminal unless this is given."""
    json: bool = False
    """Print one JSON object instead."""
    seed: int = 0
    """Makes a random answer repeatable."""

    max_tokens: int = 64
    """text: the longest answer."""
    temperature: float = 0.0
    """text: 0 takes the likeliest token, 1 draws as the model believes."""
    top_p: float = 1.0
    """text: draw from the likeliest tokens that hold this share."""
    top_k: int = 0
    """text: draw from this many of the likeliest tokens; 0 means all."""

    num_steps: int = 30
    """picture, sound: steps of the solver."""
    guidance_scale: float = 2.5
    """picture, sound: how strongly the words pull; 1 is the plain model."""
    guidance_interval: tuple[float, float] = (0.1, 1.0)
    """picture, sound: from noise level (0 noise, 1 signal) to noise level where they pull."""
    solver: str = "euler"
    """picture, sound: euler or heun."""
    grid: Annotated[
        tuple[int, int],
        tyro.conf.arg(metavar="ROWS COLUMNS", help_behavior_hint="(default: the model chooses)"),
    ] = (0, 0)
    """picture, sound: size in patches."""
    duration_s: Annotated[float, tyro.conf.arg(help_behavior_hint="(default: the model chooses)")] = 0.0
    """sound: seconds."""
    negative_prompt: Annotated[str, tyro.conf.arg(metavar="TEXT", help_behavior_hint="")] = ""
    """picture, sound: what to move away from."""


NOT_OPTIONS = {"prompt", "model", "output", "out", "json"}


def main(arguments: Sequence[str]) -> int:
    """Generate, then print or save."""
    chosen, given = parse(Generate, arguments, verb="generate", description=DESCRIPTION)
    prompt = [check_part(read_part(part)) for part in chosen.prompt]
    if not prompt:
        raise ValueError("the prompt is empty; give some text, a picture or a sound")
    output = _output(chosen)
    out = _out_file(chosen.out, output)
    # Only what was asked for is passed on: an option of another output is an error there, never ignored.
    options = {name: getattr(chosen, name) for name in given - NOT_OPTIONS}
    model: Any = open_model(chosen.model)  # it knows its modalities and refuses others
    marks = {"output": output, "model": chosen.model, "seed": chosen.seed}
    if output == "text":
        _write_text(model, prompt, options, out, marks, as_json=chosen.json)
        return 0
    answer = model.generate(prompt, output, **options)
    path = str(answer.save(out))
    print(json.dumps(marks | {"file": path}) if chosen.json else path)
    return 0


def _write_text(
    model: Any,
    prompt: Any,
    options: dict[str, Any],
    out: Path | None,
    marks: dict[str, Any],
    *,
    as_json: bool,
) -> None:
    pieces: list[str] = []
    for piece in model.generate(prompt, "text", stream=True, **options):
        pieces.append(piece)
        if not as_json and not out:
            print(piece, end="", flush=True)
    text = "".join(pieces).strip()
    if out:
        out.write_text(text + "\n", encoding="utf-8")
        marks = marks | {"file": str(out)}
    if as_json:
        print(json.dumps(marks | {"text": text}, ensure_ascii=False))
    else:
        print(str(out) if out else "")
    if not text:
        print("the model answered with no text at all", file=sys.stderr)


def _output(chosen: Generate) -> str:
    """What is asked for, by name or by the suffix of the file."""
    by_suffix = (modality_of_path(Path(chosen.out)) or "text") if chosen.out else ""
    if chosen.output and by_suffix and chosen.output != by_suffix:
        raise ValueError(
            f"--out {chosen.out} is a file for {by_suffix} and --output is {chosen.output}; "
            "make them agree or leave one out"
        )
    return chosen.output or by_suffix or "text"


def _out_file(name: str, output: str) -> Path | None:
    """Where to save; without a name, the first free one in this folder."""
    suffixes = WRITABLE.get(output, ())
    if not name:
        if not suffixes:
            return None
        names = (Path(f"{output}{f'-{n}' if n else ''}{suffixes[0]}") for n in range(1_000_000))
        return next(path for path in names if not path.exists())
    path = Path(name).expanduser()
    if suffixes and path.suffix.lower() not in suffixes:
        raise ValueError(f"cannot save {output} as {path.name}; use {' or '.join(suffixes)}")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path.parent}: no such folder to save {path.name} in; make it first")
    return path
