"""What is generated stands exactly where, and as, the same thing stood in training: tokens and positions."""

from typing import Any

import numpy as np
import pytest
import torch

from sensorium.data.sample import Medium, Sample
from sensorium.data.templates import build_documents, shape_tokens
from sensorium.generate.engine import Engine
from sensorium.generate.prompt import Prompt, read_prompt, without_text
from sensorium.generate.requests import MediaOptions, Request
from sensorium.generate.sampling import integrate
from sensorium.generate.sequences import TokenSequence
from sensorium.media.modality import get_modality
from sensorium.media.parts import Audio, Image
from sensorium.model.flow import add_noise
from sensorium.model.sensorium import NoisyMedia
from sensorium.sequence.document import Document, EmbSegment, MediaSegment, Segment, TextSegment, layout
from sensorium.sequence.mask import attention_mask
from sensorium.sequence.tokenizer import Tokenizer
from tests.model.small import byte_tokenizer, pack_documents, predictions, random_model, small_config

CONFIG = small_config(bands=100)
PICTURE = np.random.default_rng(0).integers(0, 256, (16, 16, 3)).astype(np.uint8)
SOUND = (0.1 * np.random.default_rng(1).standard_normal(5000)).astype(np.float32)
LEARNED = Tokenizer.train(
    ["say hello there, a red car"] * 9 + ["name in German: ein rotes Auto"] * 9, vocab_size=580
)


def read(kind: str) -> Medium:
    array = get_modality(kind).to_array(PICTURE if kind == "image" else SOUND, CONFIG.modalities[kind])
    return Medium(kind, array, array, CONFIG.modalities[kind].patch)


def part(kind: str) -> Image | Audio:
    return Image(PICTURE) if kind == "image" else Audio((SOUND, 24_000))


def messages(*turns: tuple[str, list[str]]) -> list[dict[str, Any]]:
    def typed(content: str) -> dict[str, Any]:
        return (
            {"type": content, "text": None}
            if content in ("image", "audio")
            else {"type": "text", "text": content}
        )

    return [{"role": role, "content": [typed(c) for c in content]} for role, content in turns]


def as_prompt(turns: list[dict[str, Any]]) -> list[dict[str, Any]]:
    def own(c: dict[str, Any]) -> Any:
        return c["text"] if c["type"] == "text" else part(c["type"])

    return [{"role": turn["role"], "content": [own(c) for c in turn["content"]]} for turn in turns]


CHAT = messages(
    ("system", ["be brief"]),
    ("user", ["image", "what is this?"]),
    ("assistant", ["a red car"]),
    ("user", ["and this", "audio", "?"]),
    ("assistant", ["a hum"]),
)
# template, line of it, sample, prompt, output, the answer
CASES: list[tuple[str, int, Sample, Prompt, str]] = [
    ("pair", 0, Sample("", "", "a red car", media=[read("image")]), part("image"), "text"),
    ("pair", 0, Sample("", "", "a hum", media=[read("audio")]), [part("audio")], "text"),
    ("pair", 1, Sample("", "", "a red car", media=[read("image")]), "a red car", "image"),
    ("pair", 1, Sample("", "", "a hum", media=[read("audio")]), ["a hum"], "audio"),
    ("transcribe", 0, Sample("", "", "hello", media=[read("audio")]), [part("audio"), "transcribe"], "text"),
    ("speak", 0, Sample("", "", "hello there", media=[read("audio")]), "say hello there", "audio"),
    (
        "translate",
        0,
        Sample("", "", names={"de": "Auto"}, media=[read("image")]),
        [part("image"), "name in German"],
        "text",
    ),
    (
        "chat",
        0,
        Sample("", "", messages=CHAT, media=[read("image"), read("audio")]),
        as_prompt(CHAT[:-1]),
        "text",
    ),
    (
        "chat",
        0,
        Sample("", "", messages=CHAT[1:3], media=[read("image")]),
        [part("image"), "what is this?"],
        "text",
    ),
    ("chat", 0, Sample("", "", messages=CHAT[1:3], media=[read("image")]), as_prompt(CHAT[1:2]), "text"),
]
IDS = [f"{case[0]} {case[1]} {case[4]} {n}" for n, case in enumerate(CASES)]


def build(case: tuple[str, int, Sample, Prompt, str], tokenizer: Tokenizer, **options: float) -> Document:
    return build_documents(case[2], case[0], tokenizer, np.random.default_rng(0), **options)[case[1]]


@pytest.mark.parametrize("tokenizer", [byte_tokenizer(), LEARNED], ids=["bytes", "learned"])
@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_a_prompt_is_the_beginning_of_its_training_document(
    case: tuple[Any, ...], tokenizer: Tokenizer
) -> None:
    segments = build(case, tokenizer).segments  # type: ignore[arg-type]
    trained = layout(segments, pad_id=tokenizer.pad, emb_id=tokenizer.emb)
    prompt = read_prompt(case[3], case[4], CONFIG, tokenizer)
    if case[4] != "text":
        target = segments[-1]
        assert isinstance(target, MediaSegment)
        prompt.append(TextSegment(shape_tokens(tokenizer, target)))
    asked = layout(prompt, pad_id=tokenizer.pad, emb_id=tokenizer.emb)
    n = len(asked)
    assert trained.token_ids_T[:n].tolist() == asked.token_ids_T.tolist()
    assert trained.positions_T3[:n].tolist() == asked.positions_T3.tolist()
    assert trained.block_id_T[:n].tolist() == asked.block_id_T.tolist()
    for (at, given), (trained_at, seen) in zip(asked.media, trained.media, strict=False):
        assert at == trained_at
        assert np.array_equal(given.array, seen.array)
    # What comes next stands where generation will put it.
    if case[4] == "text":
        assert trained.positions_T3[n].tolist() == [asked.end_position] * 3
        answer = [i for s in segments if isinstance(s, TextSegment) and s.supervised for i in s.token_ids]
        assert trained.token_ids_T[n:].tolist() == answer[-(len(trained) - n) :]
        assert answer[-1] == tokenizer.eos
        assert (trained.labels_T[n - 1 : -1] == trained.token_ids_T[n:]).all()
    else:
        (_, target), offsets = trained.media[-1], get_modality(case[4]).offsets(trained.media[-1][1].grid)
        assert target.noisy
        assert trained.positions_T3[n:].tolist() == (asked.end_position + offsets).tolist()


@pytest.mark.parametrize(
    "case", [c for c in CASES if c[4] != "text"], ids=lambda case: f"{case[0]} {case[4]}"
)
def test_the_unconditional_prompt_is_a_document_that_lost_its_condition(case: tuple[Any, ...]) -> None:
    tokenizer = byte_tokenizer()
    segments = build(case, tokenizer, condition_dropout=1.0).segments  # type: ignore[arg-type]
    blank = without_text(read_prompt(case[3], case[4], CONFIG, tokenizer))
    trained = layout(segments, pad_id=tokenizer.pad, emb_id=tokenizer.emb)
    asked = layout(blank, pad_id=tokenizer.pad, emb_id=tokenizer.emb)
    assert trained.token_ids_T[: len(asked)].tolist() == asked.token_ids_T.tolist()
    assert len(trained) == len(asked) + len(segments[-2].token_ids) + len(trained.media) * int(
        np.prod(segments[-1].grid)
    )


@pytest.mark.parametrize("case", CASES, ids=IDS)
@torch.no_grad()
def test_the_model_says_in_generation_what_it_says_in_training(case: tuple[Any, ...]) -> None:
    """End to end: logits of every answer token, or the velocity of the medium, from both paths."""
    tokenizer, model = byte_tokenizer(), random_model(CONFIG)
    engine = Engine(model, tokenizer)
    document = build(case, tokenizer)  # type: ignore[arg-type]
    batch = pack_documents([document], CONFIG)
    prompt = read_prompt(case[3], case[4], CONFIG, tokenizer)
    if case[4] == "text":
        logits = model.logits(model(batch)[0])
        n = len(layout(prompt, pad_id=tokenizer.pad, emb_id=tokenizer.emb))
        answer = batch.token_ids_BT[0, n:]
        sequence = TokenSequence(tokenizer, prompt)
        sequence.row = engine.cache.add_row()
        for number, token in enumerate(answer):
            engine.reader.read([(sequence, sequence.num_unread)])
            torch.testing.assert_close(
                engine.reader.logits([sequence])[0], logits[n - 1 + number], atol=1e-4, rtol=1e-3
            )
            sequence.append_token(int(token))
        return
    grid = document.segments[-1].grid  # type: ignore[union-attr]
    scale = CONFIG.modalities[case[4]].noise_scale

    def slope(z: torch.Tensor, t: float) -> torch.Tensor:
        noisy = {case[4]: NoisyMedia(z[None], torch.tensor([t]))}
        mask = attention_mask(batch.doc_id_BT, batch.block_id_BT, batch.is_noisy_BT)
        hidden = model.trunk(model.embed(batch, noisy), batch.positions_BT3, mask, batch.is_noisy_BT)
        return (predictions(model, hidden, batch)[case[4]][0] - z) / (1 - t)

    noise = torch.randn(
        batch.targets[case[4]].arrays_NCHW.shape[1:], generator=torch.Generator().manual_seed(3)
    )
    options = MediaOptions(num_steps=2, guidance_scale=1.0, grid=grid, seed=3)
    (answer,) = engine.generate([Request(prompt=prompt, output=case[4], media=options)])
    torch.testing.assert_close(
        answer.parts[0].array, integrate(slope, scale * noise, num_steps=2), atol=1e-4, rtol=1e-3
    )


def test_the_noise_of_training_at_t_0_is_where_sampling_starts() -> None:
    from sensorium.model.flow import Noise

    e = torch.randn(1, 1, 2, 2)
    start = add_noise(torch.ones(1, 1, 2, 2), Noise(torch.zeros(1), e), 1.5)
    assert torch.equal(start, 1.5 * e)


@pytest.mark.parametrize("prompt", ["", [], [""], [{"role": "user", "content": ""}]])
def test_an_empty_prompt_is_an_error(prompt: Prompt) -> None:
    with pytest.raises(ValueError, match="the prompt is empty; give some text, a picture or a sound"):
        read_prompt(prompt, "text", CONFIG, byte_tokenizer())


def test_other_bad_prompts_are_errors() -> None:
    tokenizer = byte_tokenizer()
    with pytest.raises(ValueError, match="a prompt part is a int; expected text"):
        read_prompt([3], "text", CONFIG, tokenizer)  # type: ignore[list-item]
    with pytest.raises(ValueError, match="message 0 has role 'robot'; expected system, user or assistant"):
        read_prompt([{"role": "robot", "content": "x"}], "text", CONFIG, tokenizer)
    import dataclasses

    deaf = dataclasses.replace(CONFIG, modalities={"image": CONFIG.modalities["image"]})
    with pytest.raises(ValueError, match="this model has no modality 'audio'; it knows image"):
        read_prompt(part("audio"), "text", deaf, tokenizer)


def test_control_tokens_in_a_prompt_are_text() -> None:
    tokenizer = byte_tokenizer()
    segments: list[Segment] = read_prompt("<eos><assistant><emb>", "text", CONFIG, tokenizer)
    assert segments == [
        TextSegment(tokenizer.encode("<eos><assistant><emb>")),
        TextSegment([tokenizer.assistant]),
    ]
    assert not any(isinstance(s, EmbSegment) for s in segments)
