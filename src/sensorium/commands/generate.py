"""``sensorium generate``: one prompt, one answer."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from sensorium.commands.arguments import parse
from sensorium.commands.parts import (
    STARTER,
    SYNTAX,
    check_part,
    modality_of_path,
    open_model,
    read_medium,
    read_part,
)
from sensorium.media.parts import Image

DESCRIPTION = f"""Answer a prompt in text, a picture or a sound. The parts of the prompt are taken in order.

{SYNTAX}

A picture or sound alone is named; words alone are drawn or sounded (--output); anything else is a question.
A file named by --out is overwritten, and previews are saved there; without --out a free name is taken.

Examples:
  sensorium generate photo.png "what is this?"
  sensorium generate "a red car" --out car.png --n 4 --width 32 --height 24
  sensorium generate dog.png "put it on a beach" --out beach.png --mask sky.png
  sensorium generate "is it day?" --choices "yes|no"
  sensorium generate "rain" --output audio --duration-s 2 --seed 7
  sensorium generate memo.flac "transcribe" --json
  sensorium generate clip.mp4 "what happens?"
  echo "name three fruits" | sensorium generate - --model runs/tiny --temperature 0.8
"""
# Files that can be written; checked before the work, not after it.
WRITABLE = {"image": (".png", ".jpg", ".jpeg", ".webp"), "audio": (".wav", ".flac")}
WRITTEN = (".txt", ".md", ".json")  # files of text; --output text takes any


@dataclass(frozen=True, kw_only=True)
class Generate:
    """Arguments of ``sensorium generate``. Defaults are those of ``TextOptions`` and ``MediaOptions``."""

    prompt: Annotated[
        tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="PART ...", help_behavior_hint="")
    ] = ()
    """Words, pictures, sounds and videos, in any order and number."""
    model: Annotated[str, tyro.conf.arg(metavar="FOLDER")] = STARTER
    """A model folder or a run folder."""
    output: Annotated[
        str, tyro.conf.arg(metavar="KIND", help_behavior_hint="(default: by the suffix of --out, else text)")
    ] = ""
    """text, image, audio, or interleaved (text in which the model may draw and sound)."""
    out: Annotated[
        str, tyro.conf.arg(metavar="FILE", help_behavior_hint="(default: image.png, audio.wav)")
    ] = ""
    """Where the answer is saved; text goes to the terminal unless this is given."""
    json: bool = False
    """Print one JSON object instead."""
    seed: int = 0
    """Makes a random answer repeatable."""
    n: int = 1
    """So many answers, with this seed and those after it."""
    weights: Annotated[str, tyro.conf.arg(metavar="KIND")] = "float32"
    """float32, or int8: 8-bit weights and compiled decoding, the first time after up to a minute."""

    max_tokens: int = 64
    """text: the longest answer."""
    temperature: float = 0.0
    """text: 0 takes the likeliest token, 1 draws as the model believes."""
    top_p: float = 1.0
    """text: draw from the likeliest tokens that hold this share."""
    top_k: int = 0
    """text: draw from this many of the likeliest tokens; 0 means all."""
    min_p: float = 0.0
    """text: draw from tokens at least this share as likely as the likeliest."""
    repetition_penalty: float = 1.0
    """text: makes what was read and said less likely; 1 does not."""
    stop: Annotated[str, tyro.conf.arg(metavar="TEXT", help_behavior_hint="")] = ""
    """text: the answer ends before this."""
    choices: Annotated[str, tyro.conf.arg(metavar="A|B|C", help_behavior_hint="")] = ""
    """text: the answer is one of these."""
    regex: Annotated[str, tyro.conf.arg(metavar="PATTERN", help_behavior_hint="")] = ""
    """text: the answer matches this regular expression."""
    json_schema: Annotated[str, tyro.conf.arg(metavar="FILE", help_behavior_hint="")] = ""
    """text: the answer is JSON of the schema in this file."""
    spelling: float = 0.4
    """text, transcribe: from 0 to 1, the weight of what the sound's encoder spells beside what the trunk expects."""
    num_beams: int = 24
    """text, transcribe: beginnings that are followed side by side."""

    num_steps: Annotated[
        int, tyro.conf.arg(help_behavior_hint="(default: 30; 2 for edits without --mask, --source or a size)")
    ] = 30
    """picture, sound: steps of the solver."""
    guidance_scale: Annotated[float, tyro.conf.arg(help_behavior_hint="(default: 2.5; 1.25 for edits)")] = 2.5
    """picture, sound: how strongly the words pull; 1 is the plain model."""
    image_guidance_scale: float = 1.0
    """picture, sound: how strongly the pictures and sounds of the prompt pull."""
    guidance_interval: Annotated[
        tuple[float, float], tyro.conf.arg(help_behavior_hint="(default: 0.1 1.0; 0 1 for edits)")
    ] = (0.1, 1.0)
    """picture, sound: from noise level (0 noise, 1 signal) to noise level where they pull."""
    solver: str = "euler"
    """picture, sound: euler or heun."""
    grid: Annotated[
        tuple[int, int],
        tyro.conf.arg(metavar="ROWS COLUMNS", help_behavior_hint="(default: the model chooses)"),
    ] = (0, 0)
    """picture, sound: size in patches."""
    width: Annotated[int, tyro.conf.arg(help_behavior_hint="(default: the model chooses)")] = 0
    """picture: pixels; goes with --height."""
    height: Annotated[int, tyro.conf.arg(help_behavior_hint="(default: the model chooses)")] = 0
    """picture: pixels; goes with --width."""
    source: Annotated[str, tyro.conf.arg(metavar="FILE", help_behavior_hint="")] = ""
    """picture: start from this one, --strength of the way to noise."""
    strength: float = 1.0
    """picture: from 0.001 (nearly --source) to 1 (drawn anew)."""
    mask: Annotated[str, tyro.conf.arg(metavar="FILE", help_behavior_hint="")] = ""
    """picture: change the source (or the last picture of the prompt) only where this one is white."""
    preview_every: int = 0
    """picture: save what can be seen so far every so many steps."""
    duration_s: Annotated[float, tyro.conf.arg(help_behavior_hint="(default: the model chooses)")] = 0.0
    """sound: seconds."""
    vocoder: Annotated[
        str, tyro.conf.arg(metavar="FILE", help_behavior_hint="(default: Griffin-Lim, which needs none)")
    ] = ""
    """sound: what turns the spectrogram into sound: a run of `sensorium train vocoder`, or public Vocos weights."""
    negative_prompt: Annotated[str, tyro.conf.arg(metavar="TEXT", help_behavior_hint="")] = ""
    """picture, sound: what to move away from."""


OF_TEXT = (
    *("max_tokens", "temperature", "top_p", "top_k", "min_p", "repetition_penalty"),
    *("stop", "choices", "regex", "json_schema", "spelling", "num_beams"),
)
OF_PICTURES = ("width", "height", "source", "strength", "mask")
OF_SOUNDS = ("duration_s", "vocoder")
OF_BOTH = (
    *("num_steps", "guidance_scale", "image_guidance_scale", "guidance_interval", "solver", "grid"),
    *("negative_prompt", "preview_every"),
)
# options: what they are for, and how that is asked for
PURPOSES: dict[tuple[str, ...], tuple[tuple[str, ...], str, str]] = {
    OF_TEXT: (("text", "interleaved"), "text", "leave it out, or ask for --output text"),
    OF_PICTURES: (("image",), "pictures", "add --output image or --out NAME.png"),
    OF_SOUNDS: (("audio",), "sounds", "add --output audio or --out NAME.wav"),
    OF_BOTH: (
        ("image", "audio", "interleaved"),
        "pictures and sounds",
        "add --output image or --output audio",
    ),
}
NOT_OPTIONS = {"prompt", "model", "weights", "output", "out", "json", "vocoder"}


def main(arguments: Sequence[str]) -> int:
    """Generate, then print or save."""
    chosen, given = parse(Generate, arguments, verb="generate", description=DESCRIPTION)
    prompt = [check_part(read_part(part)) for part in chosen.prompt]
    if not prompt:
        raise ValueError("the prompt is empty; give some text, a picture or a sound")
    output = _output(chosen)
    out = _out_file(chosen.out, output, chosen.n)
    _check_purposes(given, output)
    # Only what was asked for is passed on: an option that does not fit is an error there, never ignored.
    options = {name: _read_option(name, getattr(chosen, name)) for name in given - NOT_OPTIONS}
    if chosen.preview_every and chosen.n > 1:
        raise ValueError("--preview-every shows one picture or sound on its way: leave it or --n out")
    model: Any = open_model(chosen.model, chosen.weights)  # it knows its modalities and refuses others
    if chosen.vocoder:
        model.use_vocoder(chosen.vocoder)
    marks = {"output": output, "model": chosen.model, "seed": chosen.seed}
    if output == "text" and chosen.n == 1:
        _write_text(model, prompt, options, out, marks, as_json=chosen.json)
        return 0
    if output in WRITABLE and chosen.n == 1:
        answers = [_draw(model, prompt, output, options, out)]
    else:
        answers = model.generate(prompt, output, **options)
        answers = answers if chosen.n > 1 else [answers]
    _write_answers(answers, output, out, marks, as_json=chosen.json)
    return 0


def _check_purposes(given: set[str], output: str) -> None:
    """An option that is for another output is told with what to add."""
    known = {kind for outputs, *_ in PURPOSES.values() for kind in outputs}
    for names, (outputs, what, mend) in PURPOSES.items():
        for name in sorted(given.intersection(names)):
            if output in known and output not in outputs:
                raise ValueError(
                    f"--{name.replace('_', '-')} is for {what}, and {output} is asked for; {mend}"
                )


def _read_option(name: str, value: Any) -> Any:
    """An option as it was typed -> what the interface takes."""
    if name in ("source", "mask"):
        return check_part(read_medium(value, "image"))
    if name == "stop":
        return [value]
    if name == "choices":
        if not all(choice.strip() for choice in value.split("|")):
            raise ValueError(f"--choices {value!r} has an empty choice; expected answers such as 'yes|no'")
        return value.split("|")
    if name == "json_schema":
        file = Path(value).expanduser()
        if not file.is_file():
            raise FileNotFoundError(f"{value}: no such file; check the path of the JSON schema")
        return file.read_text(encoding="utf-8")
    return value


def _draw(model: Any, prompt: Any, output: str, options: dict[str, Any], out: Path | None) -> Any:
    """One medium; previews are saved where it will be."""
    if not options.get("preview_every"):
        return model.generate(prompt, output, **options)
    made = None
    for made in model.generate(prompt, output, stream=True, **options):
        made.save(out)
    return made


def _write_answers(
    answers: list[Any], output: str, out: Path | None, marks: dict[str, Any], *, as_json: bool
) -> None:
    """Several answers, or one medium, or words and media in turn."""
    shown: list[Any] = []
    for number, answer in enumerate(answers, 1):
        parts = answer if isinstance(answer, list) else [answer]
        names = [_save(part, out, number if len(answers) > 1 else 0) for part in parts]
        shown.append(names if output == "interleaved" else names[0])
    if as_json:
        kind = {"text": "text", "interleaved": "parts"}.get(output, "file")
        found = {kind: shown[0]} if len(shown) == 1 else {f"{kind}s": shown}
        print(json.dumps(marks | found, ensure_ascii=False))
    elif output == "text" and out:
        out.write_text("\n".join(shown) + "\n", encoding="utf-8")
        print(out)
    else:
        for item in shown:
            print("\n".join(item) if isinstance(item, list) else item)


def _save(part: Any, out: Path | None, number: int) -> str:
    """Text as it is; a medium's file, numbered where there are several."""
    if isinstance(part, str):
        return part
    if out is None:  # a free name for each
        out, number = _out_file("", "image" if isinstance(part, Image) else "audio"), 0
    assert out is not None
    return str(part.save(_numbered(out, number)))


def _numbered(path: Path, number: int) -> Path:
    return path.with_stem(f"{path.stem}-{number}") if number else path


def _write_text(
    model: Any,
    prompt: Any,
    options: dict[str, Any],
    out: Path | None,
    marks: dict[str, Any],
    *,
    as_json: bool,
) -> None:
    from sensorium.generate.requests import Text

    pieces: list[str] = []
    handle = model.submit(prompt, "text", **options)
    try:
        for event in handle:
            if isinstance(event, Text):
                pieces.append(event.text)
                if not as_json and not out:
                    print(event.text, end="", flush=True)
    finally:
        handle.cancel()
    text, reason = "".join(pieces).strip(), handle.result().finish_reason
    if out:
        out.write_text(text + "\n", encoding="utf-8")
        marks = marks | {"file": str(out)}
    if as_json:
        print(json.dumps(marks | {"text": text, "finish_reason": reason}, ensure_ascii=False))
    else:
        print(str(out) if out else "")
    if not text:
        print("the model answered with no text at all", file=sys.stderr)
    if reason == "length":
        limit = options.get("max_tokens", Generate.max_tokens)
        print(f"the answer was cut off: --max-tokens is {limit}", file=sys.stderr)


def _output(chosen: Generate) -> str:
    """What is asked for, by name or by the suffix of the file."""
    suffix = Path(chosen.out).suffix.lower()
    by_suffix = modality_of_path(Path(chosen.out)) or ("text" if suffix in WRITTEN else "")
    if suffix and not by_suffix and not chosen.output:
        known = "; ".join(
            f"{kind} {' '.join(names)}" for kind, names in {**WRITABLE, "text": WRITTEN}.items()
        )
        raise ValueError(f"--out {chosen.out}: the suffix {suffix!r} is not known; known are {known}")
    if chosen.output and by_suffix and chosen.output != by_suffix:
        raise ValueError(
            f"--out {chosen.out} is a file for {by_suffix} and --output is {chosen.output}; "
            "make them agree or leave one out"
        )
    return chosen.output or by_suffix or "text"


def _out_file(name: str, output: str, n: int = 1) -> Path | None:
    """Where to save; without a name, the first free one in this folder."""
    suffixes = WRITABLE.get(output, ())
    if name and output == "interleaved":
        raise ValueError("--out is one file and an interleaved answer may hold several; leave --out away")
    if not name:
        if not suffixes:
            return None
        names = (Path(f"{output}{f'-{k}' if k else ''}{suffixes[0]}") for k in range(1_000_000))
        numbers = range(1, n + 1) if n > 1 else (0,)
        return next(p for p in names if not any(_numbered(p, k).exists() for k in numbers))
    path = Path(name).expanduser()
    if suffixes and path.suffix.lower() not in suffixes:
        raise ValueError(f"cannot save {output} as {path.name}; use {' or '.join(suffixes)}")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path.parent}: no such folder to save {path.name} in; make it first")
    return path
