"""The door of the Python interface: ``sm.load()`` returns a ``Model`` that generates and embeds."""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from sensorium.config import RunConfig
from sensorium.generate.engine import Engine, MediaOptions, TextOptions
from sensorium.generate.prompt import Part, Prompt, read_parts, read_prompt, without_text
from sensorium.media.modality import get_modality, modality_of
from sensorium.media.parts import Audio, Image
from sensorium.model.sensorium import Sensorium
from sensorium.pretrained import load_model, save_model
from sensorium.sequence.document import EmbSegment, Segment
from sensorium.sequence.tokenizer import Tokenizer

Output = Literal["text", "image", "audio"]


class Model:
    """A model with its tokenizer and configuration.

    Args:
        model: in evaluation mode. tokenizer, config: that it was trained with.
    """

    def __init__(self, model: Sensorium, tokenizer: Tokenizer, config: RunConfig) -> None:
        self.model, self.tokenizer, self.config = model, tokenizer, config
        self.engine = Engine(model, tokenizer)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "Model":
        """Read a model folder; errors name the file and the mend."""
        return cls(*load_model(folder))

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config.json, model.safetensors and tokenizer.json."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        save_model(Path(folder), self.model.state_dict(), self.config, self.tokenizer)

    def generate(
        self, prompt: Prompt, output: Output = "text", *, stream: bool = False, **options: Any
    ) -> Any:
        """Answer one prompt.

        Args:
            prompt: text, a medium, a list of both in any order, or a list of messages (``role``,
                ``content``).
            output: "text", "image" or "audio".
            stream: with text, return an iterator over pieces of the answer.
            options: fields of ``TextOptions`` (max_tokens, temperature, top_p, top_k, seed) for text, of
                ``MediaOptions`` (num_steps, guidance_scale, guidance_interval, solver, seed) for media, and
                ``duration_s`` for sound, ``negative_prompt`` for media.

        Returns:
            ``str``, or an iterator of ``str``, or ``sm.Image``, or ``sm.Audio``.

        Raises:
            ValueError: an empty prompt, an unknown option or output; the message names it.
        """
        if stream:
            if output != "text":
                raise ValueError(
                    f"stream=True with output={output!r}; only text can be streamed: leave stream out"
                )
            return self._stream(self._prompt(prompt, "text"), _options(TextOptions, options))
        return self.generate_batch([prompt], output, **options)[0]

    def generate_batch(self, prompts: Sequence[Prompt], output: Output = "text", **options: Any) -> list[Any]:
        """Answer several prompts in one batch; each answer is what it would be alone."""
        known = ("text", *self.config.model.modalities)
        if output not in known:
            raise ValueError(f"output {output!r} is unknown to this model; it gives {', '.join(known)}")
        rows = [self._prompt(prompt, output) for prompt in prompts]
        if not rows:
            return []
        if output == "text":
            answers: list[list[int]] = [[] for _ in rows]
            for step in self.engine.generate_text(rows, _options(TextOptions, options)):
                for answer, token in zip(answers, step, strict=True):
                    if token is not None:
                        answer.append(token)
            return [self.tokenizer.decode(answer).strip() for answer in answers]
        negative = options.pop("negative_prompt", None)
        options = self._grid_option(output, options)
        blank = (
            [self._prompt(negative, output)] * len(rows) if negative else [without_text(row) for row in rows]
        )
        chosen = _options(MediaOptions, options)
        arrays = self.engine.generate_media(output, rows, blank, chosen)
        marks = {"generator": "sensorium", "model": self.config.name, "seed": str(chosen.seed)}
        return [get_modality(output).from_array(array.numpy(), marks) for array in arrays]

    def embed(self, items: Sequence[Part | Sequence[Part]], *, batch_tokens: int = 8192) -> np.ndarray:
        """Media and words -> unit vectors in the shared latent space.

        Args:
            items: parts, or lists of parts that are embedded together.
            batch_tokens: how many positions run at once.

        Returns:
            float32 ``[len(items), latent_dim]``; the dot product of two rows is their similarity.

        Raises:
            ValueError: an empty item, or one part that is not in a list.
        """
        if isinstance(items, str) or modality_of(items):
            raise ValueError(
                f"embed takes a list of parts and was given one {type(items).__name__}; wrap it in a list"
            )
        model = self.config.model
        rows = [[*read_parts(item, model, self.tokenizer), EmbSegment()] for item in items]
        return self.embed_segments(rows, batch_tokens=batch_tokens)

    def embed_segments(self, rows: Sequence[Sequence[Segment]], *, batch_tokens: int = 8192) -> np.ndarray:
        """``embed`` for segments that end in ``<emb>``; similar lengths share a batch."""
        lengths = [sum(_length(segment) for segment in row) for row in rows]
        out = np.zeros((len(rows), self.config.model.latent_dim), np.float32)
        order = sorted(range(len(rows)), key=lambda i: lengths[i])
        while order:
            size = max(1, batch_tokens // lengths[order[-1]])
            chosen, order = order[-size:], order[:-size]
            out[chosen] = self.engine.embed([rows[i] for i in chosen]).numpy()
        return out

    def _stream(self, prompt: Sequence[Segment], options: TextOptions) -> Iterator[str]:
        """Pieces that together are the whole answer."""
        tokens: list[int] = []
        whole = sent = ""
        for step in self.engine.generate_text([prompt], options):
            tokens += [token for token in step if token is not None]
            whole = self.tokenizer.decode(tokens).strip()
            # Half a character shows as U+FFFD until its other bytes arrive, and no answer ends in a space.
            settled = whole.rstrip("\ufffd").rstrip()
            if len(settled) > len(sent):
                yield settled[len(sent) :]
                sent = settled
        if len(whole) > len(sent):
            yield whole[len(sent) :]

    def _prompt(self, prompt: Prompt, output: str) -> list[Segment]:
        return read_prompt(prompt, output, self.config.model, self.tokenizer)

    def _grid_option(self, output: str, options: dict[str, Any]) -> dict[str, Any]:
        """``duration_s`` of a sound -> patches."""
        options = dict(options)
        duration_s = options.pop("duration_s", None)
        if duration_s is None:
            return options
        if output != "audio":
            raise ValueError(f"duration_s with output={output!r}; only sounds have a duration: leave it out")
        from sensorium.media.audio import HOP_LENGTH, SAMPLE_RATE

        patch_s = self.config.model.modalities["audio"].patch[0] * HOP_LENGTH / SAMPLE_RATE
        return options | {"grid": (max(1, round(duration_s / patch_s)), 1)}


def _length(segment: Segment) -> int:
    if isinstance(segment, EmbSegment):
        return 1
    return len(segment.token_ids) if hasattr(segment, "token_ids") else segment.grid[0] * segment.grid[1]


def _options(kind: type, values: dict[str, Any]) -> Any:
    """Options by name; an unknown one is an error that lists the known ones."""
    known = [field.name for field in dataclasses.fields(kind)]
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise ValueError(f"unknown option {unknown[0]!r}; known here are {', '.join(known)}")
    return kind(**values)


def load(path: str | Path | None = None) -> Model:
    """A model by folder, or the starter model that ships with the package.

    Args:
        path: a folder with config.json and model.safetensors, a run folder (its last checkpoint), or ``RUN/best``.

    Raises:
        FileNotFoundError, ValueError: what is missing or broken, and what to do.
    """
    if path is None:
        from sensorium.starter import STARTER_MODEL

        return Model.from_pretrained(STARTER_MODEL)
    folder = Path(path)
    if folder.is_file() and folder.name in ("last", "best"):
        folder = folder.parent / folder.read_text().strip()
    last = folder / "last"
    if not (folder / "config.json").is_file() and last.is_file():
        folder = folder / last.read_text().strip()
    return Model.from_pretrained(folder)


__all__ = ["Audio", "Image", "Model", "load"]
