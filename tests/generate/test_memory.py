"""A thousand mixed requests, some given up: nothing is left behind and nothing grows."""

import gc
import random

import pytest
import torch

from sensorium.generate.engine import Engine
from sensorium.generate.scheduler import EngineConfig
from tests.generate.load import TOKENIZER, assert_nothing_held, kinds, model


def held() -> tuple[int, int]:
    """Living tensors and their bytes."""
    gc.collect()
    tensors = [item for item in gc.get_objects() if type(item) is torch.Tensor]
    return len(tensors), sum(t.untyped_storage().nbytes() for t in tensors)


@pytest.mark.slow
def test_a_thousand_mixed_requests_with_cancellations_leave_nothing_behind() -> None:
    config = EngineConfig(cache_tokens=800, prefix_tokens=400, feature_patches=40, max_rows=12)
    engine = Engine(model(), TOKENIZER, config)
    rng = random.Random(0)
    open_handles = []
    num_cancelled = num_finished = 0
    figures = []
    for number in range(1000):
        handle = engine.submit(rng.choice(kinds()))
        open_handles.append(handle)
        while len(open_handles) >= 8:
            engine.step()
            if rng.random() < 0.2:
                rng.choice(open_handles).cancel()
            for other in [h for h in open_handles if h.is_done]:
                reasons = {answer.finish_reason for answer in other.answers}
                assert reasons <= {"stop", "length", "cancelled"}
                num_cancelled += "cancelled" in reasons
                num_finished += reasons <= {"stop", "length"}
                open_handles.remove(other)
        assert engine.cache.num_tokens <= config.cache_tokens
        if number % 250 == 249:
            while any(not h.is_done for h in open_handles):
                engine.step()
            open_handles.clear()
            handle = None
            engine.step()
            assert_nothing_held(engine)
            figures.append(held())
    assert num_cancelled > 100
    assert num_finished > 500
    # What is kept is what the budgets allow: full after the first quarter, and the same ever after.
    counts, sizes = zip(*figures, strict=True)
    assert max(counts[1:]) <= counts[0] + 40
    assert max(sizes[1:]) <= sizes[0] * 1.05
