"""Whatever the company, the order and the room: the same answers, and nothing left behind."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sensorium.generate.engine import Engine
from sensorium.generate.requests import Request, TextOptions
from sensorium.generate.scheduler import EngineConfig
from sensorium.sequence.document import TextSegment
from tests.generate.load import (
    ASSISTANT,
    PROMPTS,
    TOKENIZER,
    alone,
    assert_nothing_held,
    assert_same,
    kinds,
    model,
    unfair,
)
from tests.model.small import medium, random_model, small_config, text

arrivals = st.lists(
    st.tuples(
        st.integers(0, len(kinds()) - 1),  # which request
        st.integers(0, 4),  # steps before the next arrives
        st.sampled_from([None, None, None, 0, 1, 3, 6]),  # steps before it is cancelled
    ),
    min_size=1,
    max_size=10,
)
configs = st.builds(
    EngineConfig,
    cache_tokens=st.sampled_from([200, 300, 600, 5000]),
    prefix_tokens=st.sampled_from([0, 60, 5000]),
    feature_patches=st.sampled_from([0, 20, 1000]),
    max_rows=st.sampled_from([3, 5, 64]),
    prefill_tokens=st.sampled_from([1, 8, 40, 256]),
    denoise_tokens=st.sampled_from([1, 12, 256]),
)


@settings(max_examples=40)
@given(arrivals, configs, st.integers(0, 1000))
def test_answers_do_not_depend_on_company_order_room_or_cancellations(
    arriving: list[tuple[int, int, int | None]], config: EngineConfig, seed: int
) -> None:
    engine = unfair(Engine(model(), TOKENIZER, config), seed)
    handles: list[Any] = []
    now = 0
    for kind, pause, patience in arriving:
        handle = engine.submit(kinds()[kind])
        handles.append((kind, handle, None if patience is None else now + patience))
        for _ in range(pause):
            engine.step()
            now += 1
            for _, other, at in handles:
                if at is not None and now >= at:
                    other.cancel()
    for _, handle, at in handles:
        if at is not None:
            handle.cancel()
    for kind, handle, at in handles:
        answers = handle.results()
        if at is None:
            assert_same(answers, alone(kind))
        for answer, whole in zip(answers, alone(kind), strict=True):
            if (
                answer.finish_reason == "cancelled"
            ):  # what was said until then is the beginning of what would be
                assert answer.token_ids == whole.token_ids[: len(answer.token_ids)]
            else:
                assert_same([answer], [whole])
    engine.step()
    assert_nothing_held(engine)


@torch.inference_mode()
def test_preempted_and_resumed_equals_undisturbed() -> None:
    """With and without keys and values kept for the return."""
    for prefix_tokens in (0, 1000):
        engine = unfair(
            Engine(model(), TOKENIZER, EngineConfig(cache_tokens=260, prefix_tokens=prefix_tokens)), 1
        )
        chosen = [5, 10, 15, len(kinds()) - 1, len(kinds()) - 3, 2, 4, 25]
        handles = [engine.submit(kinds()[kind]) for kind in chosen]
        for _ in range(6):
            engine.step()
        # Everyone in turn is sent away in the midst of things.
        for _ in range(8):
            for job in list(engine.scheduler.active):
                engine.scheduler._preempt(job)
            engine.step()
            engine.step()
        for kind, handle in zip(chosen, handles, strict=True):
            assert_same(handle.results(), alone(kind))
        assert engine.scheduler.num_preemptions > 6
        assert_nothing_held(engine)


def test_a_full_cache_sends_the_youngest_away_and_all_finish() -> None:
    engine = Engine(model(), TOKENIZER, EngineConfig(cache_tokens=200, prefix_tokens=0))
    requests = [Request(prompt=[text(c), ASSISTANT], text=TextOptions(max_tokens=60)) for c in "abcdef"]
    handles = [engine.submit(request) for request in requests]
    answers = [handle.result() for handle in handles]
    assert engine.scheduler.num_preemptions > 0
    fresh = EngineConfig(prefix_tokens=0)
    expected = [Engine(model(), TOKENIZER, fresh).generate([request])[0] for request in requests]
    assert_same(answers, expected)
    ends = [h.submitted_s + a.total_s for h, a in zip(handles, answers, strict=True)]
    assert ends == sorted(ends)  # the oldest is never overtaken
    assert_nothing_held(engine)


class Counting:
    """A runtime that counts the positions that it is given."""

    def __init__(self) -> None:
        self.num_positions = 0
        self.logits = model().logits

    def trunk(self, x_BTD: torch.Tensor, *rest: Any) -> torch.Tensor:
        self.num_positions += x_BTD.shape[0] * x_BTD.shape[1]
        return model().trunk(x_BTD, *rest)


def test_a_second_turn_reads_only_what_is_new_and_says_the_same() -> None:
    runtime = Counting()
    engine = Engine(model(), TOKENIZER, runtime=runtime)
    options = TextOptions(max_tokens=6)
    first = engine.generate([Request(prompt=PROMPTS[1], text=options)])[0]
    turn = TextSegment([*first.token_ids, TOKENIZER.eos, TOKENIZER.user, *TOKENIZER.encode("why?")])
    second = Request(prompt=[*PROMPTS[1], turn, ASSISTANT], text=options)
    encoder_calls: list[int] = []
    hook = model().encoders["image"].register_forward_hook(lambda *_: encoder_calls.append(1))
    before = runtime.num_positions
    shared = engine.generate([second])[0]
    hook.remove()
    fresh = Engine(model(), TOKENIZER, EngineConfig(prefix_tokens=0)).generate([second])[0]
    assert_same([shared], [fresh])
    assert encoder_calls == []  # the picture is not encoded again
    # The last token of the first answer, <eos>, <user>, four bytes and <assistant>; then five of the answer.
    assert runtime.num_positions - before == 8 + 5
    assert shared.num_cached_tokens == shared.num_prompt_tokens - 8
    assert fresh.num_cached_tokens == 0


def test_features_are_kept_where_no_beginning_is_shared() -> None:
    engine = Engine(model(), TOKENIZER)
    picture = medium("image", (4, 4), 0)
    calls: list[int] = []
    hook = model().encoders["image"].register_forward_hook(lambda *_: calls.append(1))
    for words in ("a", "b"):
        engine.generate([Request(prompt=[text(words), picture, ASSISTANT], text=TextOptions(max_tokens=1))])
    hook.remove()
    assert len(calls) == 1


def test_what_other_weights_computed_is_not_used() -> None:
    changing = random_model(small_config(tie_embeddings=False))
    engine = Engine(changing, TOKENIZER)
    request = Request(prompt=PROMPTS[1], text=TextOptions(max_tokens=6))
    before = engine.generate([request])[0]
    with torch.no_grad():
        changing.layers[0].self_attn.v_proj.weight.mul_(-1)  # type: ignore[union-attr, operator]
        changing.encoders["image"].norm.weight.mul_(2)  # type: ignore[union-attr, operator]
    after = engine.generate([request])[0]
    assert after.num_cached_tokens == 0
    assert after.token_ids != before.token_ids
    assert_same([after], Engine(changing, TOKENIZER).generate([request]))


def test_samples_of_one_request_read_its_prompt_once() -> None:
    runtime = Counting()
    engine = Engine(model(), TOKENIZER, runtime=runtime)
    prompt = [text("a rather long prompt, so that it shows"), ASSISTANT]
    options = TextOptions(max_tokens=4, temperature=1.0, seed=5)
    answers = engine.generate([Request(prompt=prompt, text=options, n=3)])
    # 39 positions once, the last of them for each of the others, and three tokens of each answer.
    assert runtime.num_positions == 39 + 2 + 3 * 3
    for n, answer in enumerate(answers):
        single = TextOptions(max_tokens=4, temperature=1.0, seed=5 + n)
        fresh = Engine(model(), TOKENIZER).generate([Request(prompt=prompt, text=single)])
        assert_same([answer], fresh)
    assert len({tuple(a.token_ids) for a in answers}) == 3


@pytest.mark.parametrize("kind", range(len(kinds())))
def test_events_make_the_answer(kind: int) -> None:
    from sensorium.generate.requests import Answer, Finished

    handle = Engine(model(), TOKENIZER).submit(kinds()[kind])
    events = list(handle)
    for index, expected in enumerate(alone(kind)):
        mine = [event for event in events if event.index == index]
        assert isinstance(mine[-1], Finished)
        assert sum(isinstance(event, Finished) for event in mine) == 1
        answer = Answer(index)
        for event in mine:
            answer.add(event)
        assert_same([answer], [expected])
        assert answer.text == expected.text == TOKENIZER.decode(expected.token_ids).strip()
