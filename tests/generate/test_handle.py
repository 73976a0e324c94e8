"""Threads, event loops, cancelling, failing and leaving."""

import asyncio
import gc
import random
import threading
import time
from typing import Any

import pytest
import torch

from sensorium.generate.engine import Engine
from sensorium.generate.requests import Finished, MediaOptions, Request, TextOptions
from sensorium.generate.scheduler import EngineConfig
from sensorium.sequence.document import EmbSegment
from tests.generate.load import (
    ASSISTANT,
    PROMPTS,
    TOKENIZER,
    alone,
    assert_nothing_held,
    assert_same,
    kinds,
    model,
)
from tests.model.small import text

LONG = Request(prompt=PROMPTS[1], text=TextOptions(max_tokens=500))
PICTURE = Request(
    prompt=[text("x"), EmbSegment()], output="image", media=MediaOptions(num_steps=500, grid=(4, 4))
)


def test_a_cancelled_request_is_gone_after_one_step() -> None:
    engine = Engine(model(), TOKENIZER)
    handles = [engine.submit(LONG), engine.submit(PICTURE)]
    kept = engine.submit(kinds()[3])
    for _ in range(4):
        engine.step()
    assert engine.num_running == 3 - kept.is_done
    for handle in handles:
        handle.cancel()
    engine.step()
    assert [h.answers[0].finish_reason for h in handles] == ["cancelled", "cancelled"]
    assert all(h.is_done for h in handles)
    assert_same(kept.results(), alone(3))
    engine.step()
    assert_nothing_held(engine)


def test_leaving_a_stream_cancels_it() -> None:
    from sensorium.config import DataConfig, RunConfig, TrainConfig
    from sensorium.generate.interface import Model

    config = RunConfig(
        name="small",
        tokenizer="bytes",
        model=model().config,
        data=DataConfig(sources=()),
        train=TrainConfig(),
    )
    own = Model(model(), TOKENIZER, config)
    for _ in own.generate("x", stream=True, max_tokens=500, temperature=1.0):
        break
    gc.collect()
    own.engine.step()
    assert_nothing_held(own.engine)


def test_a_thread_serves_many_threads_and_ends_cleanly() -> None:
    before = threading.active_count()
    with Engine(model(), TOKENIZER, EngineConfig(cache_tokens=600)) as engine:
        chosen = [random.Random(n).randrange(len(kinds())) for n in range(24)]
        results: dict[int, Any] = {}

        def ask(n: int) -> None:
            results[n] = engine.submit(kinds()[chosen[n]]).results()

        threads = [threading.Thread(target=ask, args=(n,)) for n in range(24)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        for n, kind in enumerate(chosen):
            assert_same(results[n], alone(kind))
        waiting = engine.submit(LONG)
    assert not engine.is_running
    assert waiting.is_done  # cancelled, or served before the end
    assert threading.active_count() == before
    assert_nothing_held(engine)


def test_several_threads_drive_an_engine_that_has_none() -> None:
    engine = Engine(model(), TOKENIZER)
    results: dict[int, Any] = {}

    def ask(n: int) -> None:
        results[n] = engine.submit(kinds()[n]).results()

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for n in range(6):
        assert_same(results[n], alone(n))


def test_an_event_loop_gets_events_and_goes_on_meanwhile() -> None:
    async def main(engine: Engine) -> tuple[list[Any], int]:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0)

        ticking = asyncio.create_task(tick())
        handles = [engine.submit(kinds()[kind]) for kind in (2, 3, 26)]
        events = await asyncio.gather(*(collect(handle) for handle in handles))
        ticking.cancel()
        for handle, kind in zip(handles, (2, 3, 26), strict=True):
            assert_same(handle.answers, alone(kind))
        return list(events), ticks

    async def collect(handle: Any) -> list[Any]:
        return [event async for event in handle]

    with Engine(model(), TOKENIZER) as engine:
        events, ticks = asyncio.run(main(engine))
    assert all(isinstance(found[-1], Finished) for found in events)
    assert ticks > 10


def test_callbacks_get_every_event_in_the_engines_thread() -> None:
    seen: list[tuple[str, Any]] = []
    with Engine(model(), TOKENIZER) as engine:
        handle = engine.submit(kinds()[3], lambda e: seen.append((threading.current_thread().name, e)))
        until = time.monotonic() + 30
        while not handle.is_done and time.monotonic() < until:
            time.sleep(0.005)
    assert {name for name, _ in seen} == {"sensorium-engine"}
    assert isinstance(seen[-1][1], Finished)
    assert_same(handle.answers, alone(3))


def test_a_callback_that_fails_hurts_nobody_else() -> None:
    def refuse(event: Any) -> None:
        raise ValueError("the client has gone")

    engine = Engine(model(), TOKENIZER)
    good, bad = engine.submit(kinds()[2]), engine.submit(LONG, refuse)
    assert_same(good.results(), alone(2))
    with pytest.raises(ValueError, match="the client has gone"):
        bad.results()
    assert bad.answers[0].finish_reason == "cancelled"
    assert_nothing_held(engine)


def test_a_second_async_iteration_ends_and_a_callback_is_not_replaced() -> None:
    async def main(engine: Engine) -> None:
        handle = engine.submit(kinds()[2])
        first = [event async for event in handle]
        assert isinstance(first[-1], Finished)
        assert [event async for event in handle] == []
        taken: list[Any] = []
        told = engine.submit(kinds()[2], taken.append)
        with pytest.raises(RuntimeError, match="the events go to on_event"):
            async for _ in told:
                pass
        told.results()
        assert isinstance(taken[-1], Finished)

    with Engine(model(), TOKENIZER) as engine:
        asyncio.run(asyncio.wait_for(main(engine), 60))


def test_an_interrupt_while_embedding_waits_does_not_stop_the_thread() -> None:
    class Interrupted:
        def __enter__(self) -> None:
            raise KeyboardInterrupt

        def __exit__(self, *_: object) -> None:
            pass

    engine = Engine(model(), TOKENIZER)
    lock, engine._lock = engine._lock, Interrupted()  # type: ignore[assignment]
    with pytest.raises(KeyboardInterrupt):
        engine.embed([[text("a"), EmbSegment()]])
    engine._lock = lock
    with engine:
        handle = engine.submit(kinds()[2])
        until = time.monotonic() + 30
        while not handle.is_done and time.monotonic() < until:
            time.sleep(0.005)
    assert_same(handle.answers, alone(2))


def test_an_async_caller_without_a_thread_is_told() -> None:
    async def main() -> None:
        async for _ in Engine(model(), TOKENIZER).submit(LONG):
            pass

    with pytest.raises(RuntimeError, match=r"nobody runs the engine; call engine.start\(\)"):
        asyncio.run(main())


def test_embedding_gets_its_turn_beside_a_busy_thread() -> None:
    with Engine(model(), TOKENIZER) as engine:
        handle = engine.submit(PICTURE)
        for _ in range(5):
            assert engine.embed([[text("a"), EmbSegment()]]).shape == (1, 16)
        assert not handle.is_done
        handle.cancel()


class Failing:
    """A runtime that fails once, at a given step."""

    logits = staticmethod(model().logits)

    def __init__(self, at: int) -> None:
        self.at, self.count = at, 0

    def trunk(self, *args: Any) -> torch.Tensor:
        self.count += 1
        if self.count == self.at:
            raise RuntimeError("out of memory")
        return model().trunk(*args)


@pytest.mark.parametrize("threaded", [False, True])
def test_a_failure_is_told_to_all_and_the_engine_goes_on(threaded: bool) -> None:
    engine = Engine(model(), TOKENIZER, runtime=Failing(4))
    if threaded:
        engine.start()
    handles = [engine.submit(kinds()[kind]) for kind in (2, 3, 4)]
    for handle in handles:
        with pytest.raises(RuntimeError, match="out of memory"):
            handle.results()
    assert_same(engine.submit(kinds()[2]).results(), alone(2))
    engine.close()
    assert_nothing_held(engine)


def test_an_answer_that_fails_alone_leaves_the_others_be() -> None:
    class Bad:
        def allowed(self) -> torch.Tensor:
            raise ValueError("the constraint cannot be used: too complex")

        def accept(self, token_id: int) -> bool:
            return False

    engine = Engine(model(), TOKENIZER)
    good, bad = engine.submit(kinds()[3]), engine.submit(kinds()[4])
    job = engine._inbox[1]
    assert job.writer is not None
    job.writer.constraint = Bad()
    with pytest.raises(ValueError, match="too complex"):
        bad.results()
    assert bad.answers[0].finish_reason == "error"
    assert_same(good.results(), alone(3))
    engine.step()
    assert_nothing_held(engine)


class Timed:
    """A runtime by whose clock a step of text takes 1 second and one of noise 3."""

    logits = staticmethod(model().logits)
    now = 0.0

    def trunk(self, x: torch.Tensor, positions: Any, mask: Any, is_noisy: Any, cache: Any) -> torch.Tensor:
        self.now += 1 if is_noisy is None else 3
        return model().trunk(x, positions, mask, is_noisy, cache)


@pytest.mark.parametrize("share", [0.2, 0.4])
def test_a_long_picture_does_not_hold_up_a_short_answer(share: float) -> None:
    """It gets its share of the time while there is text, however much there is to draw, and all of it afterwards."""
    asked = Request(prompt=[text("a"), ASSISTANT], text=TextOptions(max_tokens=60, logprobs=0))
    latencies = []
    for company in ([], [PICTURE, PICTURE]):
        runtime = Timed()
        engine = Engine(
            model(),
            TOKENIZER,
            EngineConfig(media_share=share),
            runtime=runtime,
            clock=lambda runtime=runtime: runtime.now,  # type: ignore[misc]
        )
        drawn = [engine.submit(request) for request in company]
        latencies.append(engine.submit(asked).result().total_s)
        assert not any(handle.is_done for handle in drawn)
        before = runtime.now
        for handle in drawn:
            handle.result()
    assert latencies[1] / latencies[0] == pytest.approx(1 / (1 - share), rel=0.1)
    # Both pictures are drawn in one batch; nothing but their steps takes time once the text has been said.
    assert runtime.now - before == pytest.approx(3 * 500 - share * latencies[1], abs=6)
    engine.step()
    assert_nothing_held(engine)
