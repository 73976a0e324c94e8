"""A model as lmms-eval takes one: its requests become prompts, answered in batches by the engine.

``ChatModel`` reads messages (pictures in their place between words); ``SimpleModel``, chosen by ``--force_simple``,
reads media and then words: lmms-eval hands out sounds of data sets whole only there.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as pillow

from sensorium.generate.interface import load
from sensorium.generate.job import Job
from sensorium.generate.prompt import Prompt
from sensorium.media.audio import HOP_LENGTH, SAMPLE_RATE
from sensorium.media.parts import Audio, Image, Video

try:
    from lmms_eval.api.instance import GenerationResult, TokenCounts
    from lmms_eval.api.model import lmms
except ModuleNotFoundError:  # the file can be imported without it, and is of no use then
    lmms = object

PARTS = {"image": Image, "audio": Audio, "video": Video}
SUFFIXES = {
    **dict.fromkeys((".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp"), "image"),
    **dict.fromkeys((".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a", ".aac"), "audio"),
}
# Options of tasks -> ours; those that decide between them (do_sample) or must have one value (num_beams) are apart.
OPTIONS = {
    "max_new_tokens": "max_tokens",
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "repetition_penalty": "repetition_penalty",
    "seed": "seed",
}


class ChatModel(lmms):
    """``lmms_eval --model sensorium --model_args pretrained=FOLDER``.

    Args:
        pretrained: as ``sensorium.load`` takes it.
        batch_size: prompts answered together; each answer is what it would be alone.
        device: "cpu", "cuda".
        max_new_tokens: of answers to tasks that name no length.
        seed: of answers that are drawn; the n-th repetition of a question adds n.

    Raises:
        FileNotFoundError, ValueError: there is no such model, or an argument is wrong.
    """

    is_simple = False

    def __init__(
        self,
        pretrained: str = "starter",
        batch_size: int | str = 1,
        device: str = "cpu",
        max_new_tokens: int = 256,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not str(batch_size).isdecimal() or int(batch_size) < 1:
            raise ValueError(f"batch_size is {batch_size!r}; expected a number of prompts, at least 1")
        self._model = load(str(pretrained))
        self._model.model.to(device)
        self.device, self.batch_size = device, int(batch_size)
        self.max_new_tokens, self.seed = max_new_tokens, seed
        self._warned: set[str] = set()
        audio = self._model.config.model.modalities.get("audio")
        self._max_sound_s = audio.max_size[0] * HOP_LENGTH / SAMPLE_RATE if audio else 0.0
        self._num_cut = 0

    def generate_until(self, requests: Sequence[Any]) -> list[Any]:
        """Answers in the order of the requests, with their numbers of tokens."""
        from tqdm import tqdm

        asked: Counter[tuple[Any, ...]] = Counter()
        self._num_cut = 0
        results = []
        with tqdm(total=len(requests), disable=self.rank != 0, desc="Model Responding") as bar:
            for start in range(0, len(requests), self.batch_size):
                batch = requests[start : start + self.batch_size]
                prepared = [self._prepare(request, asked) for request in batch]
                handles = [self._model.engine.queue(jobs) for jobs in prepared]
                for (answer,) in [handle.results() for handle in handles]:
                    counts = TokenCounts(
                        input_tokens=answer.num_prompt_tokens, output_tokens=len(answer.token_ids)
                    )
                    results.append(GenerationResult(text=answer.text, token_counts=counts))
                bar.update(len(batch))
        if self._num_cut:
            _warn(f"of {self._num_cut} sounds it hears the first {self._max_sound_s:.2f} s: they are longer")
        return results

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Refused: see the error."""
        raise NotImplementedError(
            "this task compares likelihoods, and lmms-eval (0.7.3) turns those into text before it scores them; take "
            "a task that generates"
        )

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[list[str]]:
        """Refused: rounds are for models that call tools."""
        raise NotImplementedError("this task talks in several rounds with tools; take one that asks once")

    def _prepare(self, request: Any, asked: Counter[tuple[Any, ...]]) -> list[Job]:
        """What the engine queues; an error names the task and the sample."""
        *_, doc_id, task, split = request.args
        try:
            prompt, options = self._read(request.args)
            taken = self._options(options)
            taken["seed"] += asked[task, split, doc_id, request.idx]
            asked[task, split, doc_id, request.idx] += 1
            return self._model.engine.prepare(self._model.request(prompt, "text", **taken))
        except FileNotFoundError as error:
            hint = (
                "" if self.is_simple else "; where the data set itself holds the medium, add --force_simple"
            )
            raise FileNotFoundError(f"task {task}, sample {doc_id}: {error}{hint}") from error
        except ValueError as error:
            raise ValueError(f"task {task}, sample {doc_id}: {error}") from error

    def _read(self, args: tuple[Any, ...]) -> tuple[Prompt, Mapping[str, Any]]:
        """The arguments of a request -> prompt and options."""
        _, doc_to_messages, options, doc_id, task, split = args
        messages = [
            {
                "role": message["role"],
                "content": [self._heard(chat_part(part)) for part in message["content"]],
            }
            for message in doc_to_messages(self.task_dict[task][split][doc_id])
        ]
        return messages, options

    def _heard(self, part: Any) -> Any:
        """The part; a sound is decoded, and counted where the model takes its beginning only."""
        if not isinstance(part, Audio):
            return part
        wave = part.waveform()
        self._num_cut += wave.size > self._max_sound_s * SAMPLE_RATE
        return Audio((wave, SAMPLE_RATE))

    def _options(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Options of a task -> options of ``Model.request``; what we do not have is said once."""
        given = {name: value for name, value in given.items() if value is not None}
        stop, sample = given.pop("until", []), given.pop("do_sample", None)
        if sample:
            given.setdefault("temperature", 1.0)
        if sample is False or not given.get("temperature"):
            given["temperature"] = 0.0
            for name in ("top_p", "top_k", "min_p"):  # of the likeliest alone, whatever a task writes there
                given.pop(name, None)
        taken = {ours: given.pop(theirs) for theirs, ours in OPTIONS.items() if theirs in given}
        if given.pop("num_beams", 1) != 1:
            given["num_beams over 1"] = True
        if unknown := given.keys() - self._warned:
            _warn(f"leaves these options of tasks out: {', '.join(sorted(unknown))}")
            self._warned |= unknown
        stop = [text for text in ([stop] if isinstance(stop, str) else stop) if text]
        return {"max_tokens": self.max_new_tokens, "seed": self.seed, "stop": stop, **taken}


class SimpleModel(ChatModel):
    """The same for tasks that hand over media and words apart (``--force_simple``)."""

    is_simple = True

    def _read(self, args: tuple[Any, ...]) -> tuple[Prompt, Mapping[str, Any]]:
        words, options, doc_to_visual, doc_id, task, split = args
        media = [
            self._heard(part_of(medium))
            for medium in doc_to_visual(self.task_dict[task][split][doc_id]) or ()
        ]
        return [{"role": "user", "content": [*media, words]}], options


def chat_part(part: Mapping[str, Any]) -> Any:
    """A part of a message, ``{"type": "text", "text"}`` or ``{"type": kind, "url": medium}`` -> text or a medium.

    Raises:
        ValueError: only a piece of a video is meant.
    """
    if part["type"] == "text":
        return part["text"]
    if part.get("start_time") is not None or part.get("end_time") is not None:
        raise ValueError("a piece of a video is asked for; cut it out, videos are seen whole here")
    return part_of(part["url"], part["type"])


def part_of(medium: Any, kind: str = "") -> Image | Audio | Video:
    """Any form in which tasks of lmms-eval hand over a medium -> a part of a prompt.

    Args:
        medium: a Pillow picture; a path; a decoded sound (``{"array", "sampling_rate"}`` or an object with
            ``get_all_samples``, as ``datasets`` decodes: samples ``[n]`` or ``[channels, n]``); encoded bytes, or a
            mapping with ``bytes``, ``url`` or ``path``.
        kind: "image", "audio" or "video", where the caller knows; a sound that lmms-eval calls a video is a sound.

    Raises:
        ValueError: it is none of these.
    """
    if isinstance(medium, pillow.Image):
        return Image(medium)
    if hasattr(medium, "get_all_samples"):
        samples = medium.get_all_samples()
        return _sound(samples.data, samples.sample_rate)
    if isinstance(medium, Mapping):
        if "array" in medium:
            return _sound(medium["array"], medium["sampling_rate"])
        if medium.keys() & {"video_start", "video_end"}:
            raise ValueError("a piece of a video is asked for; cut it out, videos are seen whole here")
        name, kind = str(medium.get("path") or medium.get("url") or ""), medium.get("type", kind)
        medium = medium.get("bytes") or name
    else:
        name = str(medium) if isinstance(medium, str | Path) else ""
    kind = SUFFIXES.get(Path(name).suffix.lower(), kind or "video")
    if not isinstance(medium, str | Path | bytes) or not medium or kind not in PARTS:
        raise ValueError(
            f"a medium is a {type(medium).__name__} of kind {kind!r}; expected a picture, a decoded sound, or the path "
            "or bytes of a picture, a sound or a video"
        )
    part: Image | Audio | Video = PARTS[kind](medium)
    return part


def _warn(what: str) -> None:
    from loguru import logger

    logger.warning(f"sensorium: {what}")


def _sound(samples: Any, sample_rate: int) -> Audio:
    return Audio((np.asarray(samples).T, int(sample_rate)))
