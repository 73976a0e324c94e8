"""Samples of a run at fixed prompts: a caption, an answer, a picture, a sound; from the averaged weights.

The prompts are the first suitable rows of the run's own data, so that they stay the same through the run and
what is right can be seen beside what was made.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sensorium.data.mixture import Source
from sensorium.generate.interface import Model
from sensorium.media.modality import get_modality
from sensorium.media.parts import Audio, Image
from sensorium.train.trainer import Trainer

MAX_TOKENS = 32


@dataclass(frozen=True)
class FixedPrompt:
    """What to ask. ``truth`` is what the data say, ``file`` where a generated medium goes."""

    title: str
    parts: tuple[str | Image | Audio, ...]
    output: str
    truth: str = ""
    file: str = ""


def write_samples(trainer: Trainer, folder: Path) -> None:
    """Write ``samples.txt``, ``picture.png`` and ``sound.wav``, as far as the run has data for them.

    Args:
        trainer: its averaged weights are used; its model is left as it is.
        folder: an existing folder.
    """
    network = trainer.averaged_model()
    if network is None:  # another rank writes
        return
    model: Any = Model(network, trainer.tokenizer, trainer.config)
    lines = [f"step {trainer.step}"]
    for prompt in fixed_prompts(trainer.loader.sources):
        try:
            if prompt.output == "text":
                answer = model.generate(list(prompt.parts), "text", max_tokens=MAX_TOKENS)
                lines.append(f"{prompt.title}: {answer!r} (data: {prompt.truth!r})")
            elif prompt.output in trainer.config.model.modalities:
                model.generate(list(prompt.parts), prompt.output).save(folder / prompt.file)
                lines.append(f"{prompt.title}: {prompt.file}")
        except ValueError as error:  # a broken row must not end the run
            lines.append(f"{prompt.title}: left out ({error})")
    (folder / "samples.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def fixed_prompts(sources: list[Source]) -> Iterator[FixedPrompt]:
    """At most one prompt of each kind, from the first source that can give it."""
    named = _first(sources, lambda s: s.reader.row(0, 0)["image"] and s.reader.row(0, 0)["text"])
    if named:
        picture, text = _part("image", named["image"]), named["text"]
        yield FixedPrompt(f"caption of {named['id']}", (picture,), "text", text)
        yield FixedPrompt(f"picture of {text!r}", (text,), "image", file="picture.png")
    asked = _first(sources, lambda s: s.reader.row(0, 0)["messages"])
    if asked:
        parts, question, truth = _question(asked)
        yield FixedPrompt(f"answer to {question!r} on {asked['id']}", parts, "text", truth)
    # A named sound is asked for by its name; where there is only speech, in the words of its template.
    sound = _first(
        sources,
        lambda s: s.reader.row(0, 0)["audio"] and s.reader.row(0, 0)["text"] and "pair" in s.config.templates,
    )
    speech = _first(
        sources,
        lambda s: (
            s.reader.row(0, 0)["audio"] and s.reader.row(0, 0)["text"] and "speak" in s.config.templates
        ),
    )
    if sound or speech:
        text = sound["text"] if sound else f"say {speech['text']}"
        yield FixedPrompt(f"sound of {text!r}", (text,), "audio", file="sound.wav")


def _first(sources: list[Source], suits: Any) -> Any:
    """The first row of the first suitable source, or None."""
    return next((source.reader.row(0, 0) for source in sources if suits(source)), None)


def _part(kind: str, medium: dict[str, Any]) -> Any:
    return get_modality(kind).part(medium["bytes"])


def _question(row: dict[str, Any]) -> tuple[tuple[Any, ...], str, str]:
    """The first turn of a conversation as parts, its words, and the answer that the data give."""
    waiting = {"image": iter(row["images"] or []), "audio": iter(row["audios"] or [])}
    parts = tuple(
        part["text"] if part["type"] == "text" else _part(part["type"], next(waiting[part["type"]]))
        for part in row["messages"][0]["content"]
    )
    words = " ".join(part for part in parts if isinstance(part, str))
    answer = row["messages"][1]["content"] if len(row["messages"]) > 1 else []
    return parts, words, " ".join(part["text"] for part in answer if part["type"] == "text")
