"""Stop strings, penalties, log-probabilities and constraints: what an answer in words may be."""

import itertools
import json
import re

import jsonschema
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from sensorium.generate.engine import Engine
from sensorium.generate.requests import Answer, Request, Text, TextOptions
from sensorium.generate.sampling import penalize
from sensorium.generate.writing import TextStream, token_bytes
from sensorium.sequence.document import Segment
from sensorium.sequence.tokenizer import Tokenizer
from tests.generate.load import ASSISTANT, PROMPTS, TOKENIZER, model
from tests.model.small import random_model, small_config, text

letters = st.text(alphabet="ab \né👩", max_size=14)


@given(letters, st.lists(st.text(alphabet="ab \né", min_size=1, max_size=4), max_size=3), st.integers(0, 99))
@example("aab", ["ab"], 0)
@example("aaab b", ["ab b", "b"], 1)
@example(" \n a", [" \n"], 0)
def test_pieces_are_the_text_before_the_first_stop_string(said: str, stop: list[str], seed: int) -> None:
    data = said.encode()
    cuts = sorted({0, len(data), *(int(c) % (len(data) + 1) for c in torch.randint(99, (seed % 7,)))})
    stream = TextStream(stop)
    sent, pieces = "", []
    for start, end in itertools.pairwise(cuts):
        pieces.append(stream.add(data[start:end]))
        sent += pieces[-1]
        assert not any(s in sent for s in stop)
        if stream.stopped:
            break
    if not stream.stopped:
        pieces.append(stream.add(b"", last=True))
    found = [(at + len(s), at) for s in stop if (at := said.find(s)) >= 0]
    _, first = min(found, default=(0, len(said)))
    assert "".join(pieces) == said[:first].strip() == (sent + "".join(pieces)[len(sent) :])
    assert stream.stopped == (first < len(said))


def test_nothing_is_held_back_longer_than_needed() -> None:
    stream = TextStream(["STOP"])
    assert [stream.add(c.encode()) for c in "a SxSTO."] == ["a", "", "", " Sx", "", "", "", "STO."]


@pytest.mark.parametrize("name", ["bytes", "starter-1k", "starter-4k"])
def test_bytes_of_tokens_are_those_of_the_tokenizer(name: str) -> None:
    tokenizer = Tokenizer.load(name)
    table = token_bytes(tokenizer, tokenizer.vocab_size + 3)
    for said in ("hello, world", "Größe 👩‍👩‍👧 \n\t 漢字", "<eos> <image>", "\x00\x7f"):
        assert b"".join(table[t] for t in tokenizer.encode(said)) == said.encode()
    assert table[: tokenizer.size_token(255) + 1] == [b""] * (tokenizer.size_token(255) + 1)
    assert all(table[tokenizer.size_token(255) + 1 : tokenizer.vocab_size])


def ask(options: TextOptions, prompt: list[Segment] | None = None) -> Answer:
    return Engine(model(), TOKENIZER).generate([Request(prompt=prompt or PROMPTS[0], text=options)])[0]


def test_a_stop_string_across_tokens_ends_the_answer() -> None:
    whole = ask(TextOptions(max_tokens=30, temperature=1.0, seed=1, regex="[a-z]{30}")).text
    stop = whole[10:14]
    options = TextOptions(max_tokens=30, temperature=1.0, seed=1, regex="[a-z]{30}", stop=(stop, "no such"))
    answer = ask(options)
    assert answer.text == whole[: whole.index(stop)]
    assert answer.finish_reason == "stop"
    assert len(answer.token_ids) == whole.index(stop) + 4  # and not one token more


def test_stop_tokens_end_the_answer_and_are_told() -> None:
    eager = random_model(small_config(tie_embeddings=False))
    assert eager.lm_head is not None
    with torch.no_grad():
        eager.lm_head.weight[TOKENIZER.wait] *= 4
    prompt = [text("hello"), ASSISTANT]
    plain, waited = (
        Engine(eager, TOKENIZER).generate(
            [
                Request(
                    prompt=prompt,
                    text=TextOptions(max_tokens=50, temperature=1.5, seed=1, stop_tokens=stop, logprobs=0),
                )
            ]
        )[0]
        for stop in ((), (TOKENIZER.wait,))
    )
    assert TOKENIZER.wait not in [*plain.token_ids, *waited.token_ids]
    assert (waited.finish_reason, waited.stop_token) == ("stop", TOKENIZER.wait)
    assert len(waited.logprobs) == len(waited.token_ids) < len(plain.token_ids)


def test_logprobs_are_those_of_the_model() -> None:
    from sensorium.sequence.document import Document, TextSegment
    from tests.model.small import pack_documents

    options = TextOptions(max_tokens=6, temperature=0.7, top_k=5, seed=2, logprobs=3)
    answer = ask(options)
    assert len(answer.logprobs) == len(answer.token_ids) == 6
    allowed = torch.arange(model().config.vocab_size) > TOKENIZER.size_token(255)
    allowed[TOKENIZER.eos] = True
    for n, told in enumerate(answer.logprobs):
        tail = [TextSegment(answer.token_ids[:n])] if n else []
        batch = pack_documents([Document([*PROMPTS[0], *tail])], model().config)
        with torch.no_grad():
            logits = model().logits(model()(batch)[0, -1]).masked_fill(~allowed, -torch.inf)
        expected = logits.log_softmax(0)
        assert told.token_id == answer.token_ids[n]
        assert told.logprob == pytest.approx(float(expected[told.token_id]), abs=1e-3)
        values, ids = expected.topk(3)
        assert [i for i, _ in told.top] == ids.tolist()
        assert [v for _, v in told.top] == pytest.approx(values.tolist(), abs=1e-3)
    assert ask(TextOptions(max_tokens=2, logprobs=0)).logprobs[1].top == ()
    assert ask(TextOptions(max_tokens=2)).logprobs == []


def test_logprobs_travel_with_their_tokens() -> None:
    options = TextOptions(max_tokens=12, temperature=1.5, seed=3, logprobs=0, stop=("zzzz",))
    handle = Engine(model(), TOKENIZER).submit(Request(prompt=PROMPTS[0], text=options))
    for event in handle:
        if isinstance(event, Text):
            assert tuple(p.token_id for p in event.logprobs) == event.token_ids


def test_the_penalty_is_that_of_the_paper_and_counts_what_was_read_and_said() -> None:
    logits = torch.tensor([2.0, -2.0, 1.0])
    seen = torch.tensor([True, True, False])
    assert penalize(logits, seen, 2.0).tolist() == [1.0, -4.0, 1.0]
    plain, penalized = (ask(TextOptions(max_tokens=30, repetition_penalty=p)) for p in (1.0, 1e6))
    assert len(set(plain.token_ids)) < 30
    # So strong a penalty lets no token with a positive logit come twice, nor one of the prompt.
    said = penalized.token_ids
    assert len(set(said)) == 30
    assert not set(said) & set(TOKENIZER.encode("hi"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -1.0}, "temperature is -1.0; expected 0 or more"),
        ({"top_p": 0.0}, "top_p is 0.0; expected above 0"),
        ({"top_k": -1}, "top_k is -1"),
        ({"min_p": 1.5}, "min_p is 1.5; expected from 0 to 1"),
        ({"max_tokens": 0}, "max_tokens is 0; expected at least 1"),
        ({"repetition_penalty": 0.0}, "repetition_penalty is 0.0; expected above 0"),
        ({"stop": ("",)}, "expected no empty string"),
        ({"logprobs": 21}, "expected from 0 to 20"),
        ({"temperature": float("inf")}, "expected 0 or more, finite"),
        ({"seed": 2**63}, "expected an integer of 64 bits"),
        ({"seed": 0.5}, "expected an integer of 64 bits"),
        ({"choices": ("a",), "regex": "a"}, "exclude each other"),
    ],
)
def test_options_out_of_range_are_errors(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TextOptions(**options)  # type: ignore[arg-type]


def test_a_stop_token_that_the_model_lacks_is_refused() -> None:
    for token in (-1, model().config.vocab_size):
        with pytest.raises(ValueError, match=f"stop_tokens holds {token}; the model's ids go from 0 to"):
            ask(TextOptions(stop_tokens=(token,)))


def test_a_grammar_works_where_the_model_has_more_ids_than_the_tokenizer() -> None:
    wide = random_model(small_config(vocab_size=TOKENIZER.vocab_size + 64))
    options = TextOptions(max_tokens=9, temperature=1.0, choices=("yes", "no"))
    (answer,) = Engine(wide, TOKENIZER).generate([Request(prompt=PROMPTS[0], text=options)])
    assert answer.text in ("yes", "no")


SCHEMA = {
    "type": "object",
    "properties": {
        "colour": {"enum": ["red", "green"]},
        "count": {"type": "integer", "minimum": 0, "maximum": 9},
        "tags": {"type": "array", "items": {"type": "boolean"}, "maxItems": 2},
    },
    "required": ["colour", "count", "tags"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("name", ["bytes", "starter-4k"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_constrained_answers_match(name: str, temperature: float) -> None:
    tokenizer = Tokenizer.load(name)
    engine = Engine(random_model(small_config(vocab_size=tokenizer.vocab_size)), tokenizer)

    def say(**options: object) -> Answer:
        chosen = TextOptions(max_tokens=120, temperature=temperature, seed=1, **options)  # type: ignore[arg-type]
        return engine.generate([Request(prompt=[text("x")], text=chosen)])[0]

    choices = ("a red car", "ein grünes Auto (klein)", "a red")
    answer = say(choices=choices)
    assert answer.text in choices
    assert answer.finish_reason == "stop"
    answer = say(regex=r"[A-Z]{3}-\d{2,4}")
    assert re.fullmatch(r"[A-Z]{3}-\d{2,4}", answer.text)
    answer = say(json_schema=json.dumps(SCHEMA))
    jsonschema.validate(json.loads(answer.text), SCHEMA)
    assert answer.finish_reason == "stop"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"regex": "("}, r"the constraint cannot be used: (.|\n)*unclosed group"),
        ({"json_schema": "{"}, "json_schema is no JSON"),
        ({"json_schema": '{"type": "obj"}'}, "the constraint cannot be used: Invalid type: obj"),
    ],
)
def test_a_constraint_that_is_not_valid_is_refused_at_once(options: dict[str, str], message: str) -> None:
    engine = Engine(model(), TOKENIZER)
    with pytest.raises(ValueError, match=message):
        engine.submit(Request(prompt=PROMPTS[0], text=TextOptions(**options)))  # type: ignore[arg-type]
    assert engine.num_waiting == 0


def test_without_the_library_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'sensorium\[constrain\]'"):
        ask(TextOptions(regex="a"))
