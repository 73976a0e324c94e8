"""The door of the Python interface: ``sm.load()`` returns a ``Model`` that generates and embeds."""

import dataclasses
import math
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from sensorium.config import RunConfig
from sensorium.generate.engine import Engine
from sensorium.generate.handle import Handle, OnEvent
from sensorium.generate.job import Job
from sensorium.generate.pictures import EDITING, Edit, copied_from, pixel_grid, to_part
from sensorium.generate.prompt import Part, Prompt, read_parts, read_prompt, without_media, without_text
from sensorium.generate.requests import Answer, Media, MediaOptions, Request, Text, TextOptions, check_known
from sensorium.generate.runtime import Weights, check_weights, prepare_for_inference
from sensorium.generate.speech import MelToSound, speak
from sensorium.generate.streaming import Block, Heard, ListenOptions, Seen, listen, watch
from sensorium.media.audio import SAMPLE_RATE, griffin_lim
from sensorium.media.modality import modality_of
from sensorium.media.parts import Audio, Image, Video
from sensorium.model.sensorium import Sensorium
from sensorium.pretrained import load_model, save_model
from sensorium.pretrained.vocos import load_vocoder
from sensorium.sequence.document import EmbSegment, Segment, num_positions
from sensorium.sequence.tokenizer import Tokenizer

Output = Literal["text", "image", "audio", "interleaved"]


class Model:
    """A model with its tokenizer and configuration.

    Args:
        model: in evaluation mode. tokenizer, config: that it was trained with.
        weights, compile: how the model is laid out for generating, see ``prepare_for_inference``. None runs the model
            as it is, for one whose weights still change.
    """

    def __init__(
        self,
        model: Sensorium,
        tokenizer: Tokenizer,
        config: RunConfig,
        *,
        weights: Weights | None = None,
        compile: bool | None = None,
    ) -> None:
        check_weights(weights)
        self.model, self.tokenizer, self.config = model, tokenizer, config
        self.vocoder: MelToSound = griffin_lim
        self.vocoder_reach = 4  # frames on either side that a sample depends on, about
        self.weights, self.compile = weights, compile

    def __repr__(self) -> str:
        millions = sum(weight.numel() for weight in self.model.parameters()) / 1e6
        media = ", ".join(["text", *self.config.model.modalities])
        return f"sm.Model({self.config.name}: {millions:.1f} M parameters; {media})"

    @cached_property
    def engine(self) -> Engine:
        """What serves all requests to this model."""
        if self.weights is None:
            return Engine(self.model, self.tokenizer)
        laid_out = prepare_for_inference(self.model, weights=self.weights, compile=self.compile)
        return Engine(self.model, self.tokenizer, runtime=laid_out)

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, *, weights: Weights = "float32", compile: bool | None = None
    ) -> "Model":
        """Read a model folder; errors name the file and the mend. For the options see ``load``."""
        check_weights(weights)
        return cls(*load_model(folder), weights=weights, compile=compile)

    def save_pretrained(
        self, folder: str | Path, *, dtype: Literal["float32", "float16"] = "float32"
    ) -> None:
        """Write config.json, model.safetensors and tokenizer.json.

        Args:
            dtype: of the file; "float16" is half as large and rounds weights to 11 bits. A model computes in float32
                whatever it was read from.

        Raises:
            ValueError: another dtype.
        """
        if dtype not in ("float32", "float16"):
            raise ValueError(f"dtype {dtype!r} is unknown; give 'float32' or 'float16'")
        Path(folder).mkdir(parents=True, exist_ok=True)
        weights = {name: tensor.to(getattr(torch, dtype)) for name, tensor in self.model.state_dict().items()}
        save_model(Path(folder), weights, self.config, self.tokenizer)

    def use_vocoder(self, path: str | Path) -> None:
        """Turn spectrograms into sound with a vocoder instead of Griffin-Lim.

        Args:
            path: weights of ``sensorium train vocoder``, or public Vocos weights.

        Raises:
            FileNotFoundError, ValueError: there are none, or they are damaged or of another kind.
        """
        vocoder = load_vocoder(path)
        self.vocoder, self.vocoder_reach = vocoder.sound, vocoder.reach

    def generate(
        self, prompt: Prompt, output: Output = "text", *, stream: bool = False, n: int = 1, **options: Any
    ) -> Any:
        """Answer one prompt.

        Args:
            prompt: text, a medium, a list of both in any order, or a list of messages (``role``,
                ``content``).
            output: "text", "image", "audio", or "interleaved" (text in which the model may draw and sound).
            stream: return an iterator: pieces of text; words spoken, sound piece by piece (the words may then be an
                iterator too, see ``speech.speak``); for other media, previews (every ``preview_every`` steps) and at
                last the medium; for interleaved answers, all of these.
            n: give a list of so many answers, with the seeds ``seed``, ``seed + 1``, ...
            options: see ``request``.

        Returns:
            ``str``, ``sm.Image``, ``sm.Audio``, or for "interleaved" a list of them; a list of n of them where n is
            over 1; or an iterator.

        Raises:
            ValueError: an empty prompt, an unknown option or output; the message names it.
        """
        if stream and n != 1:
            raise ValueError("stream=True gives one answer; call submit for several at once")
        words = _words(prompt) if stream and output == "audio" else None
        if words is not None and not WHOLE_SOUND & options.keys():
            return speak(self, words, **options)
        request = self.request(prompt, output, n=n, **options)
        if stream:
            return self._stream(self.engine.prepare(request))
        answers = [self._result(output, answer) for answer in self.engine.generate([request])]
        return answers if n > 1 else answers[0]

    def generate_many(self, prompts: Sequence[Prompt], output: Output = "text", **options: Any) -> list[Any]:
        """Answer several prompts together; each answer is what it would be alone."""
        requests = [self.request(prompt, output, **options) for prompt in prompts]
        return [self._result(output, answer) for answer in self.engine.generate(requests)]

    def listen(
        self, sound: Iterable[Block] | Audio, *, sample_rate: int = SAMPLE_RATE, **options: Any
    ) -> Iterator[Heard]:
        """Captions of a sound while it arrives.

        Args:
            sound: blocks of any length: float samples ``[n]`` or ``[n, channels]`` in [-1, 1], int16 samples or bytes,
                pairs (samples, rate), ``sm.Audio``; or one ``sm.Audio``, heard to its end.
            sample_rate: of blocks that do not say, in Hz.
            options: fields of ``ListenOptions``: policy, ask, detect, window_s, step_s, max_tokens.

        Returns:
            an iterator of ``Heard``: partial events whose certain text only grows, and a final one for each piece of
            speech. Silence gives none.

        Raises:
            ValueError: the model does not hear, an option is unknown, or a block cannot be read.
        """
        check_known(options, ListenOptions)
        return listen(self, sound, ListenOptions(**options), sample_rate=sample_rate)

    def watch(self, video: Video | Iterable[Any], **options: Any) -> Iterator[Seen]:
        """A running description of a video while it arrives.

        Args:
            video: frames (``sm.Image``, Pillow pictures or uint8 arrays) with ``fps``, or pairs (seconds, frame); or
                an ``sm.Video``.
            options: fps; every_s, between descriptions; max_frames of each; ask, the question; max_tokens.

        Returns:
            an iterator of ``Seen``, one for each stretch of ``every_s`` seconds.
        """
        return watch(self, video, **options)

    def submit(
        self, prompt: Prompt, output: Output = "text", *, on_event: OnEvent | None = None, **options: Any
    ) -> Handle:
        """Queue a prompt and return at once; see ``Handle`` for its events, answers and how to cancel it.

        Args:
            on_event: called with every event in the engine's thread.
            options: see ``request``.
        """
        return self.engine.submit(self.request(prompt, output, **options), on_event)

    def request(self, prompt: Prompt, output: Output = "text", *, n: int = 1, **options: Any) -> Request:
        """What ``generate`` asks of the engine.

        Args:
            options: fields of ``TextOptions`` for text and of ``MediaOptions`` for media; and for media
                ``negative_prompt`` (what to move away from), ``duration_s`` of a sound, ``width`` and ``height`` of a
                picture in pixels, ``source`` (a picture to start from, at ``strength``) and ``mask`` (a picture or
                bool array, white or True where ``source`` is to be drawn anew; ``source`` is then the prompt's last
                picture unless given).

        Raises:
            ValueError: an empty prompt, an unknown option or output; the message names it.
        """
        model = self.config.model
        known = ("text", "interleaved", *model.modalities)
        if output not in known:
            raise ValueError(f"output {output!r} is unknown to this model; it gives {', '.join(known)}")
        text, media, rest = _split_options(output, options)
        if rest.get("duration_s") is not None:
            media |= {"grid": self._duration_grid(output, rest["duration_s"])}
        if rest.get("width") is not None or rest.get("height") is not None:
            media |= {"grid": pixel_grid(model, output, rest.get("width"), rest.get("height"))}
        edit = Edit.of(prompt, output, rest.get("source"), rest.get("mask"), model)
        if edit is not None:
            if media.get("grid") is not None:
                raise ValueError("source and mask give the size: leave width, height and grid out")
            media |= {"grid": edit.grid}
        elif media.get("strength", 1.0) != 1:
            raise ValueError("strength without source; give source=sm.Image(...), or leave it out")
        if output == "interleaved" and media.get("grid") is not None:
            raise ValueError("grid with output='interleaved'; there the model chooses sizes: leave it out")
        if rest.get("duration_s") is not None and options.get("grid") is not None:
            raise ValueError("duration_s and grid both give the length; leave one out")
        segments = read_prompt(prompt, output, model, self.tokenizer)
        negative = rest.get("negative_prompt")
        # An answer in words has nothing to guide; and where there are no words, nothing to move away from.
        guided = output != "text"
        *kept, closing = without_text(segments)
        wordless = [*kept, *(read_parts(negative, model, self.tokenizer) if negative else ()), closing]
        bare = without_media(wordless)
        copied = copied_from(prompt, output, edit, media.get("grid"), model)
        if copied is not None and edit is None:
            media = EDITING | media
        chosen = MediaOptions(**media)
        return Request(
            prompt=segments,
            output=output,
            text=TextOptions(**text),
            media=chosen,
            n=n,
            without_words=wordless if guided else None,
            without_media=bare if guided and len(bare) < len(wordless) else None,
            source=None if edit is None else edit.array,
            mask=None if edit is None else edit.mask_HW,
            to_part=to_part(
                self.config, chosen, edit, copied, (rest.get("width"), rest.get("height")), self.vocoder
            ),
        )

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
        if isinstance(items, str | Video) or modality_of(items):
            raise ValueError(
                f"embed takes a list of parts and was given one {type(items).__name__}; wrap it in a list"
            )
        model = self.config.model
        rows = [[*read_parts(item, model, self.tokenizer), EmbSegment()] for item in items]
        return self.embed_segments(rows, batch_tokens=batch_tokens)

    def embed_segments(self, rows: Sequence[Sequence[Segment]], *, batch_tokens: int = 8192) -> np.ndarray:
        """``embed`` for segments that end in ``<emb>``; similar lengths share a batch."""
        lengths = [num_positions(row) for row in rows]
        out = np.zeros((len(rows), self.config.model.latent_dim), np.float32)
        order = sorted(range(len(rows)), key=lambda i: lengths[i])
        while order:
            size = max(1, batch_tokens // lengths[order[-1]])
            chosen, order = order[-size:], order[:-size]
            out[chosen] = self.engine.embed([rows[i] for i in chosen]).cpu().numpy()
        return out

    def _stream(self, jobs: Sequence[Job]) -> Iterator[Any]:
        """What a user sees of the events; nothing is queued before the first is asked for, and leaving cancels."""
        handle = self.engine.queue(jobs)
        try:
            for event in handle:
                if isinstance(event, Text) and event.text:
                    yield event.text
                elif isinstance(event, Media):
                    yield event.part
        finally:
            handle.cancel()

    @staticmethod
    def _result(output: str, answer: Answer) -> Any:
        if output == "text":
            return answer.text
        parts = [part.part if isinstance(part, Media) else part for part in answer.parts]
        if output != "interleaved" and not parts:
            raise ValueError(
                f"no room for the {output} behind a prompt of {answer.num_prompt_tokens} tokens; shorten it"
            )
        return parts if output == "interleaved" else parts[0]

    def _duration_grid(self, output: str, duration_s: float) -> tuple[int, int]:
        """``duration_s`` of a sound -> patches."""
        if output != "audio":
            raise ValueError(f"duration_s with output={output!r}; only sounds have a duration: leave it out")
        if not 0 < duration_s < math.inf:
            raise ValueError(f"duration_s is {duration_s}; expected seconds, above 0 and finite")
        from sensorium.media.audio import HOP_LENGTH, SAMPLE_RATE

        patch_s = self.config.model.modalities["audio"].patch[0] * HOP_LENGTH / SAMPLE_RATE
        return (max(1, round(duration_s / patch_s)), 1)


WHOLE_SOUND = {"duration_s", "grid", "preview_every"}  # these ask for one sound, not for pieces
REQUEST_OPTIONS = ("negative_prompt", "duration_s", "width", "height", "source", "mask")


def _split_options(
    output: str, values: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Options of text, of media, and the rest; an unknown one is an error that lists the known ones."""
    of_text = [field.name for field in dataclasses.fields(TextOptions)]
    of_media = [field.name for field in dataclasses.fields(MediaOptions)]
    known = {
        "text": of_text,
        "interleaved": [*of_text, *of_media, "negative_prompt"],
    }.get(output, [*of_media, *REQUEST_OPTIONS])
    check_known(values, more=known)
    if _is_list(values.get("choices")) and not values["choices"]:
        raise ValueError("choices is empty; give at least one, or leave it out")
    lists = {
        name: tuple(values[name]) for name in ("stop", "stop_tokens", "choices") if _is_list(values.get(name))
    }
    values = values | lists
    return tuple(
        {name: value for name, value in values.items() if name in names}
        for names in (of_text if output in ("text", "interleaved") else (), of_media, REQUEST_OPTIONS)
    )  # type: ignore[return-value]


def _words(prompt: Any) -> str | Iterable[str] | None:
    """Words that are all there, or still arriving; None where the prompt has anything else."""
    if isinstance(prompt, str | Iterator):
        return prompt
    is_text = isinstance(prompt, Sequence) and all(isinstance(part, str) for part in prompt)
    return "".join(prompt) if is_text and prompt else None


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def load(
    path: str | Path | None = None, *, weights: Weights = "float32", compile: bool | None = None
) -> Model:
    """A model by folder, or the starter model that ships with the package.

    Args:
        path: a folder with config.json and model.safetensors, a run folder (its last checkpoint), or ``RUN/best``;
            None or "starter" for the model that ships with the package.
        weights: "int8" generates with weights rounded to 8 bits: a single answer comes sooner, and is nearly the same.
        compile: compile the decoding of single answers (a C++ compiler is needed, and up to a minute the first time);
            None does so with int8.

    Raises:
        FileNotFoundError, ValueError: what is missing or broken, and what to do.
    """
    return Model.from_pretrained(find_model(path), weights=weights, compile=compile)


def find_model(path: str | Path | None) -> Path:
    """The folder of the model that ``load`` would open; nothing in it is looked at."""
    if path is None or (path == "starter" and not Path(path).is_dir()):
        from sensorium.starter import STARTER_MODEL

        return STARTER_MODEL
    folder = Path(path)
    if folder.is_file() and folder.name in ("last", "best"):
        folder = folder.parent / folder.read_text().strip()
    last = folder / "last"
    if not (folder / "config.json").is_file() and last.is_file():
        folder = folder / last.read_text().strip()
    return folder


__all__ = ["Audio", "Image", "Model", "Video", "load"]
