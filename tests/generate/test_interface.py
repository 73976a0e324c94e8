"""The Python interface: whole and streamed, one and many, and what it refuses."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor

from sensorium.config import DataConfig, RunConfig, TrainConfig
from sensorium.generate.engine import Engine
from sensorium.generate.interface import Model, load
from sensorium.media.parts import Audio, Image
from tests.model.small import byte_tokenizer, random_model, small_config

TOKENIZER = byte_tokenizer()
CONFIG = RunConfig(
    name="small",
    tokenizer="bytes",
    model=small_config(bands=100),
    data=DataConfig(sources=()),
    train=TrainConfig(),
)
MODEL = Model(random_model(CONFIG.model), TOKENIZER, CONFIG)
PICTURE = Image(np.random.default_rng(0).integers(0, 256, (20, 30, 3)).astype(np.uint8))
SOUND = Audio(((0.1 * np.random.default_rng(1).standard_normal(5000)).astype(np.float32), 24_000))
PROMPTS: list[Any] = ["hi", PICTURE, [SOUND, "transcribe"], ["both", PICTURE, SOUND]]


class Scripted:
    """A runtime that says given tokens and the end, again and again."""

    def __init__(self, tokens: list[int]) -> None:
        self.trunk = MODEL.model.trunk
        self.tokens = itertools.cycle([*tokens, TOKENIZER.eos])

    def logits(self, hidden: Tensor) -> Tensor:
        logits = torch.zeros(len(hidden), TOKENIZER.vocab_size)
        logits[:, next(self.tokens)] = 1
        return logits


def _bytes_of_tokens() -> dict[int, int]:
    """Token id -> byte, from texts that hold every byte that UTF-8 can have."""
    found: dict[int, int] = {}
    for text in [chr(i) for i in (*range(0x800), *range(0x800, 0xD800, 61), *range(0xE000, 0x110000, 997))]:
        for token, byte in zip(TOKENIZER.encode(text), text.encode(), strict=True):
            assert found.setdefault(token, byte) == byte
    return found


TOKENIZER_BYTES = _bytes_of_tokens()


TOKEN_OF_BYTE = {byte: token for token, byte in TOKENIZER_BYTES.items()}


def scripted(data: bytes) -> Model:
    model = Model(MODEL.model, TOKENIZER, CONFIG)
    runtime = Scripted([TOKEN_OF_BYTE[byte] for byte in data])
    model.engine = Engine(MODEL.model, TOKENIZER, runtime=runtime)
    return model


anything = st.lists(st.sampled_from(sorted(set(TOKENIZER_BYTES.values()))), max_size=12).map(bytes)


@given(
    st.one_of(
        anything,
        st.text(max_size=8).map(str.encode),
        st.text(alphabet=" \n\ufffda👩é", max_size=8).map(str.encode),
    )
)
@example("👩‍👩‍👧 ende \ufffd".encode())
@example(b"cut \xf0\x9f\x98")
@example(b"  spaces  \n ")
def test_streamed_equals_whole(data: bytes) -> None:
    model = scripted(data)
    pieces = list(model.generate("x", stream=True))
    assert "".join(pieces) == model.generate("x")
    assert "".join(pieces) == TOKENIZER.decode([TOKEN_OF_BYTE[byte] for byte in data]).strip()
    assert all(pieces)


@given(st.text(max_size=10))
def test_no_piece_holds_half_a_character(text: str) -> None:
    sent = ""
    for piece in scripted(text.encode()).generate("x", stream=True):
        sent += piece
        assert text.strip().startswith(sent)


def test_a_stream_is_not_held_back_to_the_end() -> None:
    pieces = list(scripted("ab é c".encode()).generate("x", stream=True))
    assert pieces == ["a", "b", " é", " c"]


@pytest.mark.parametrize("options", [{}, {"temperature": 1.3, "seed": 4}])
def test_model_streams_what_it_says_and_a_batch_says_what_each_says(options: dict[str, Any]) -> None:
    alone = [MODEL.generate(p, max_tokens=10, **options) for p in PROMPTS]
    assert ["".join(MODEL.generate(p, stream=True, max_tokens=10, **options)) for p in PROMPTS] == alone
    assert MODEL.generate_many(PROMPTS, max_tokens=10, **options) == alone


@pytest.mark.parametrize("output", ["image", "audio"])
def test_media_in_a_batch_are_what_each_is_alone(output: str) -> None:
    together = MODEL.generate_many(PROMPTS, output, num_steps=2)  # type: ignore[arg-type]
    for prompt, made in zip(PROMPTS, together, strict=True):
        alone = MODEL.generate(prompt, output, num_steps=2)  # type: ignore[arg-type]
        assert type(alone) is type(made) is (Image if output == "image" else Audio)
        assert made.generated["generator"] == "sensorium"
        if output == "image":
            assert np.abs(alone.pixels().astype(int) - made.pixels().astype(int)).max() <= 1
        else:
            assert alone.waveform().shape == made.waveform().shape


def test_the_autocast_of_a_caller_changes_nothing() -> None:
    picture, answer = Image(np.full((16, 16, 3), 90, np.uint8)), MODEL.generate(PROMPTS[0], max_tokens=6)
    vectors = MODEL.embed(["a dog", picture])
    with torch.autocast("cpu", torch.bfloat16):
        assert MODEL.generate(PROMPTS[0], max_tokens=6) == answer
        np.testing.assert_array_equal(MODEL.embed(["a dog", picture]), vectors)
        MODEL.generate(PROMPTS[0], "image", num_steps=2)


def test_embeddings_do_not_depend_on_the_batch() -> None:
    together = MODEL.embed(PROMPTS)
    assert together.shape == (4, 16)
    assert together.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    for n, prompt in enumerate(PROMPTS):
        np.testing.assert_allclose(MODEL.embed([prompt])[0], together[n], atol=2e-5)
    np.testing.assert_allclose(MODEL.embed(PROMPTS, batch_tokens=1), together, atol=2e-5)


def test_nothing_gives_nothing() -> None:
    assert MODEL.embed([]).shape == (0, 16)
    assert MODEL.generate_many([]) == []
    assert MODEL.generate_many([], "image") == []


@pytest.mark.parametrize("items", ["a cat", PICTURE])
def test_embedding_one_part_without_a_list_is_an_error(items: Any) -> None:
    with pytest.raises(ValueError, match=r"embed takes a list of parts.*wrap it in a list"):
        MODEL.embed(items)


def test_bad_options_are_errors_that_name_them_at_once() -> None:
    with pytest.raises(
        ValueError, match="unknown option 'temprature'; known here are max_tokens, temperature"
    ):
        MODEL.generate("x", temprature=1)
    with pytest.raises(
        ValueError, match="output 'video' is unknown to this model; it gives text, interleaved, image, audio"
    ):
        MODEL.generate("x", output="video")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="unknown option 'stop'; known here are num_steps"):
        MODEL.generate("x", output="image", stop=["a"])
    with pytest.raises(ValueError, match="stream=True gives one answer"):
        MODEL.generate("x", stream=True, n=2)
    with pytest.raises(ValueError, match="stop and choices take a list of strings"):
        MODEL.generate("x", stop="a")
    with pytest.raises(ValueError, match="only sounds have a duration"):
        MODEL.generate("x", output="image", duration_s=1)
    with pytest.raises(ValueError, match="the prompt is empty"):
        MODEL.generate("", stream=True)
    with pytest.raises(ValueError, match="choices is empty"):
        MODEL.generate("x", choices=[])
    with pytest.raises(ValueError, match="stop_tokens holds -1"):
        MODEL.generate("x", stream=True, stop_tokens=[-1])


def test_a_stream_that_is_never_read_leaves_nothing_waiting() -> None:
    stream = MODEL.generate("x", stream=True)
    del stream
    assert MODEL.engine.num_waiting == MODEL.engine.num_running == 0


def test_a_duration_is_kept() -> None:
    made = MODEL.generate("x", "audio", duration_s=0.2, num_steps=1)
    assert made.waveform().size / 24_000 == pytest.approx(0.2, abs=6 * 256 / 24_000)


def test_saved_equals_loaded(tmp_path: Path) -> None:
    MODEL.save_pretrained(tmp_path / "m")
    again = load(tmp_path / "m")
    assert again.config == MODEL.config
    # A loaded model's weights are laid out for inference, which sums them in another order.
    np.testing.assert_allclose(again.embed(PROMPTS), MODEL.embed(PROMPTS), atol=1e-6)
    assert again.generate_many(PROMPTS, max_tokens=8) == MODEL.generate_many(PROMPTS, max_tokens=8)
    a, b = (m.generate("x", "image", num_steps=2).pixels() for m in (again, MODEL))
    assert np.abs(a.astype(int) - b).max() <= 1


def test_half_the_file_is_nearly_the_same_model(tmp_path: Path) -> None:
    MODEL.save_pretrained(tmp_path / "whole")
    MODEL.save_pretrained(tmp_path / "half", dtype="float16")
    whole, half = ((tmp_path / name / "model.safetensors").stat().st_size for name in ("whole", "half"))
    assert half < 0.55 * whole
    again = load(tmp_path / "half")
    assert {weight.dtype for weight in again.model.parameters()} == {torch.float32}
    np.testing.assert_allclose(again.embed(PROMPTS), MODEL.embed(PROMPTS), atol=5e-3)
    with pytest.raises(ValueError, match="dtype 'int4' is unknown; give 'float32' or 'float16'"):
        MODEL.save_pretrained(tmp_path / "other", dtype="int4")  # type: ignore[arg-type]


def test_no_folder_is_named() -> None:
    with pytest.raises(
        FileNotFoundError,
        match=r"no model folder at nowhere; give starter .* a folder that holds config.json",
    ):
        load("nowhere")
