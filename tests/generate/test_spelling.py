"""Joint decoding: exact probabilities of beginnings, and transcripts that follow what the encoder spells."""

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from sensorium.generate import beams
from sensorium.generate.interface import Model
from sensorium.generate.prompt import read_prompt, transcript
from sensorium.generate.requests import Request, TextOptions
from sensorium.generate.sequences import Placed
from sensorium.generate.spelling import Spelled, Vocabulary, followed, log_probs
from sensorium.media.parts import Audio
from sensorium.sequence.document import MediaSegment, TextSegment
from sensorium.sequence.mask import attention_mask
from tests.generate.small_model import small_model

# One token is no text, one ends the text, one is a part of a character.
TOKENS = (b"", b"a", b"b", b"ab", b"Ba", b"aab", b" a", "É".encode(), b"\xc3", b"\xa9", b"")
END = 10


def spelled_at_random(num_times: int, seed: int) -> torch.Tensor:
    """Log-probabilities in which only a few bytes are likely."""
    logits = torch.full((num_times, 256), -60.0)
    likely = [0, *b"ab ", *"é".encode()]
    logits[:, likely] = torch.randn(num_times, len(likely), generator=torch.Generator().manual_seed(seed))
    return logits.log_softmax(-1)


def all_texts(log_probs_TB: torch.Tensor) -> dict[bytes, float]:
    """Every text and its probability, by all paths."""
    found: dict[bytes, float] = {}
    likely = [0, *b"ab ", *"é".encode()]
    for path in itertools.product(likely, repeat=len(log_probs_TB)):
        said = bytes(byte for byte, _ in itertools.groupby(path) if byte)
        logarithm = sum(float(log_probs_TB[t, byte]) for t, byte in enumerate(path))
        found[said] = found.get(said, 0.0) + math.exp(logarithm)
    return found


@pytest.mark.parametrize("said", [(), (3,), (3, 1), (3, 1, 4), (7,), (8, 9, 6)])
def test_the_next_token_is_as_likely_as_all_paths_say(said: tuple[int, ...]) -> None:
    log_probs = spelled_at_random(6, 0)
    texts = all_texts(log_probs)
    spelled = Spelled(Vocabulary(TOKENS), END, said)
    assert not spelled.has_heard
    spelled.hear(log_probs)
    before = b"".join(
        TOKENS[token].decode(errors="ignore").lower().encode() or TOKENS[token] for token in said
    )
    beginning = sum(p for text, p in texts.items() if text.startswith(before))
    got = spelled.log_probs()
    for token, data in enumerate(TOKENS):
        if token == END:
            wanted = texts.get(before, 0.0)
        elif data:
            lower = data.decode(errors="ignore").lower().encode() or data
            wanted = sum(p for text, p in texts.items() if text.startswith(before + lower))
        else:
            wanted = 0.0
        # Only the end has no floor: a transcript must not end early because ending is cheap.
        floor = math.exp(-50 if token == END else -12)
        told = max(float(got[token]), math.log(floor))
        assert told == pytest.approx(math.log(max(floor, wanted / beginning)), abs=2e-4), data


def heard(log_probs_TB: torch.Tensor, *said: int) -> Spelled:
    spelled = Spelled(Vocabulary(TOKENS), END, said)
    spelled.hear(log_probs_TB)
    return spelled


def test_several_texts_are_followed_at_once_as_each_alone() -> None:
    log_probs_TB = spelled_at_random(9, 2)
    begun, tokens = [(), (3,), (3, 1), (7,), ()], [5, 2, 3, 9, 0]
    together = followed([heard(log_probs_TB, *said) for said in begun], tokens)
    for behind, said, token in zip(together, begun, tokens, strict=True):
        alone = heard(log_probs_TB, *said, token)
        assert behind.log_prob == pytest.approx(alone.log_prob, abs=1e-9)
        torch.testing.assert_close(behind.log_probs(), alone.log_probs())


@pytest.mark.parametrize("seed", range(8))
def test_the_best_tokens_are_told_exactly_and_no_other_seems_better(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    log_probs_TB = spelled_at_random(9, seed)
    texts = [heard(log_probs_TB, *said) for said in ((), (3,), (1, 2), (5,))]
    worth_BV = 6 * torch.randn(4, len(TOKENS), generator=generator, dtype=torch.float64)
    worth_BV[:, 4] = -torch.inf  # "Ba" is not allowed, what begins so is
    weight, num_best = 0.6, 6
    exact_BV = worth_BV + weight * log_probs(texts).double()
    told_BV = worth_BV + weight * log_probs(texts, worth_BV, weight, num_best).double()
    # The end has a score in any case, and is not among those that are searched.
    exact_BV[:, END] = told_BV[:, END] = -torch.inf
    best = exact_BV.flatten().topk(num_best)
    torch.testing.assert_close(told_BV.flatten()[best.indices], best.values, atol=1e-5, rtol=0)
    others = torch.ones(told_BV.numel(), dtype=torch.bool).index_fill_(0, best.indices, False)
    assert float(told_BV.flatten()[others].max()) <= float(best.values[-1]) + 1e-5
    assert (told_BV < exact_BV - 1).any()  # others were not followed


@pytest.mark.parametrize("weight", [0.3, 0.6, 1.0])
def test_a_search_that_follows_less_finds_the_same(weight: float, monkeypatch: pytest.MonkeyPatch) -> None:
    def follow_all(texts: Sequence[Spelled], *rest: object) -> torch.Tensor:
        return log_probs(texts)

    found = []
    for search_all in (False, True):
        if search_all:
            monkeypatch.setattr(beams, "log_probs", follow_all)
        model, sound = small_model(spelled_per_patch=2), a_sound()
        told = model.submit([sound, "transcribe"], num_beams=5, spelling=weight, max_tokens=40).result()
        found.append(told.text.lower())  # at a weight of 1 upper and lower case are equally good
    assert found[0] == found[1] != ""


def test_a_byte_that_means_blank_spells_nothing() -> None:
    spelled = Spelled(Vocabulary((b"a", b"\0", b"\0a", b"")), 3)
    spelled.hear(spelled_at_random(4, 1))
    assert spelled.log_probs()[1:3].tolist() == [-12, -12]


def a_sound() -> Audio:
    """A second of noise."""
    return Audio((0.1 * np.random.default_rng(0).standard_normal(24_000).astype(np.float32), 24_000))


def dictated(words: str, **changes: object) -> tuple[Model, Audio]:
    """A random model whose encoder spells these words of any sound of a second, a byte every patch."""
    model = small_model(spelled_per_patch=1, **changes)
    spoken = words.encode()

    def spell(name: str, hidden_PD: torch.Tensor) -> torch.Tensor:
        path = [b for byte in spoken for b in (byte, 0)]
        path = (path + [0] * len(hidden_PD))[: len(hidden_PD)]
        logits = torch.zeros(len(hidden_PD), 256)
        logits[range(len(path)), path] = 30.0
        return logits

    model.model.spell = spell  # type: ignore[method-assign]
    return model, a_sound()


def test_a_transcript_is_what_the_encoder_spells_and_other_answers_are_not() -> None:
    model, sound = dictated("call two")
    assert model.generate([sound, "transcribe"], spelling=0.99).lower() == "call two"
    alone = model.generate([sound, "transcribe"], spelling=0)
    assert alone.lower() != "call two"
    # Any other question is answered as before, and so is another order.
    for prompt in ([sound, "what is it?"], ["transcribe", sound], "transcribe", [sound, "transcribe", "!"]):
        assert model.generate(prompt, spelling=0.99) == model.generate(prompt, spelling=0)
    together = model.generate_many([[sound, "transcribe"], [sound, "what?"]], spelling=0.99)
    assert together[0].lower() == "call two"
    assert together[1] == model.generate([sound, "what?"])


def joint_score(model: Model, sound: Audio, tokens: Sequence[int], weight: float) -> float:
    """What the trunk and the spelling together give for a whole transcript, in one pass without a cache."""
    ids = model.tokenizer
    prompt = read_prompt([sound, "transcribe"], "text", model.config.model, ids)
    engine = model.engine
    with torch.inference_mode():
        batch = engine._batch([[*prompt, TextSegment(list(tokens))]])
        mask = attention_mask(batch.doc_id_BT, batch.block_id_BT, batch.is_noisy_BT)
        hidden = model.model.trunk(model.model.embed(batch, {}), batch.positions_BT3, mask)
        logits = model.model.logits(hidden)[0, -1 - len(tokens) :]
        allowed_V = engine._allowed(Request(prompt=prompt))
        expected = logits.masked_fill(~allowed_V, -torch.inf).log_softmax(-1)
        medium = next(s for s in prompt if isinstance(s, MediaSegment))
        heard = Spelled(Vocabulary(engine._token_bytes), ids.eos)
        heard.hear(engine.reader.spelled(Placed(0, medium, 1)))
        score = 0.0
        for place, token in enumerate([*tokens, ids.eos]):
            score += (1 - weight) * float(expected[place, token])
            if token != ids.eos:
                heard.accept(token)
        return score + weight * (heard.log_prob + float(heard.log_probs()[ids.eos]))


def test_nothing_near_the_transcript_that_is_found_fits_better() -> None:
    model, sound = small_model(spelled_per_patch=2), a_sound()
    weight, options = 0.8, {"spelling": 0.8, "max_tokens": 60}
    found = model.submit([sound, "transcribe"], num_beams=24, **options).result().token_ids
    greedy = model.submit([sound, "transcribe"], num_beams=1, **options).result().token_ids
    assert found
    best = joint_score(model, sound, found, weight)
    assert best > joint_score(model, sound, greedy, weight)
    generator = np.random.default_rng(0)
    text = [token for token, data in enumerate(model.engine._token_bytes) if data and 0 not in data]
    for _ in range(60):
        place = int(generator.integers(len(found)))
        other = int(generator.choice(text))
        for near in (
            [*found[:place], *found[place + 1 :]],
            [*found[:place], other, *found[place + 1 :]],
            [*found[:place], other, *found[place:]],
        ):
            assert joint_score(model, sound, near, weight) <= best + 1e-4


@pytest.mark.parametrize("num_beams", [1, 6])
def test_a_transcript_ends_where_it_is_spelled_or_where_its_room_does(num_beams: int) -> None:
    model, sound = dictated("call two")
    ask = {"spelling": 0.99, "num_beams": num_beams}
    whole = model.submit([sound, "transcribe"], **ask).result()
    assert (whole.text.lower(), whole.finish_reason, whole.stop_token) == (
        "call two",
        "stop",
        model.tokenizer.eos,
    )
    part = model.submit([sound, "transcribe"], max_tokens=2, **ask).result()
    assert part.finish_reason == "length"
    assert len(part.token_ids) == 2
    assert "call two".startswith(part.text.lower())
    assert model.submit([sound, "transcribe"], stop=["l"], **ask).result().text.lower() in ("ca", "cal")


def test_a_transcript_that_has_begun_goes_on() -> None:
    model, sound = dictated("call two")
    prompt = read_prompt([sound, "transcribe"], "text", model.config.model, model.tokenizer)
    medium, said = transcript(prompt, model.tokenizer) or (None, None)
    assert medium is prompt[0]
    assert said == []
    assert transcript(prompt[1:], model.tokenizer) is None
    begun = [*prompt, TextSegment(model.tokenizer.encode("call"))]
    text = TextOptions(spelling=0.99)
    (answer,) = model.engine.generate([Request(prompt=begun, text=text)])
    assert answer.text.lower() == "two"
    heard = list(model.listen(sound, policy="agree", detect="sound", step_s=0.3))
    assert [event.is_final for event in heard[-2:]] == [False, True]
    assert heard[-1].text.lower().startswith("call t")


def test_models_that_do_not_spell_transcribe_as_before() -> None:
    model = small_model()
    sound = Audio((np.zeros(24_000, np.float32), 24_000))
    assert model.generate([sound, "transcribe"]) == model.generate([sound, "transcribe"], spelling=0)


@pytest.mark.parametrize("weight", [-0.1, 1.1, math.nan])
def test_weights_are_shares(weight: float) -> None:
    with pytest.raises(ValueError, match="spelling is"):
        TextOptions(spelling=weight)
