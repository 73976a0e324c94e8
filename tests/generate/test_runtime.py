"""What is laid out for inference gives what the model gives."""

from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sensorium.generate import interface
from sensorium.generate.engine import Engine
from sensorium.generate.interface import load
from sensorium.generate.runtime import InferenceRuntime, prepare_for_inference
from sensorium.generate.weights import linear_row, quantize
from sensorium.model.kv_cache import KVCache
from sensorium.model.sensorium import Sensorium
from tests.generate.load import TOKENIZER, alone, assert_same, kinds
from tests.generate.load import model as loaded_model
from tests.model.small import random_model, small_config

CONFIGS: dict[str, dict[str, Any]] = {
    "plain": {"qk_norm": False},
    "normed": {},
    "experts": {"experts": "ffn", "tie_embeddings": False},
    "one head of keys": {"num_kv_heads": 1, "qk_norm": False},
    "as many heads of keys": {"num_kv_heads": 4, "target": "v"},
}


@cache
def small(name: str) -> Sensorium:
    return random_model(small_config(**CONFIGS[name]))


@cache
def prepared(name: str, weights: str = "float32") -> InferenceRuntime:
    return prepare_for_inference(small(name), weights=weights, compile=False)  # type: ignore[arg-type]


@cache
def compiled(weights: str) -> InferenceRuntime:
    """One compilation serves all tests that need one."""
    return prepare_for_inference(small("experts"), weights=weights, compile=True)  # type: ignore[arg-type]


def rounded(model: Sensorium) -> Sensorium:
    """The model whose matrices are what int8 makes of them."""
    out = Sensorium(model.config).eval()
    out.load_state_dict(model.state_dict())
    with torch.no_grad():
        for name, parameter in out.named_parameters():
            if name.startswith("layers.") and parameter.ndim == 2:
                parameter.copy_(quantize(parameter).dequantize())
    return out


def close(actual: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    scale = max(1.0, float(expected.abs().max()))
    torch.testing.assert_close(actual / scale, expected / scale, atol=tolerance, rtol=0)


def drawn(seed: int, B: int, T: int, dim: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x_BTD = torch.randn(B, T, dim, generator=generator)
    return x_BTD, torch.randint(0, 30, (B, T, 3), generator=generator)


names = st.sampled_from(sorted(CONFIGS))
kinds_of_noise = st.sampled_from(["none", "all", "some", "not given"])


def noise_mask(kind: str, seed: int, B: int, T: int) -> Tensor | None:
    if kind == "not given":
        return None
    if kind == "some":
        return torch.rand(B, T, generator=torch.Generator().manual_seed(seed)) < 0.5
    return torch.full((B, T), kind == "all")


@settings(max_examples=40)
@given(names, st.integers(0, 99), st.integers(1, 4), st.integers(1, 9), kinds_of_noise, st.booleans())
@torch.inference_mode()
def test_trunk_and_logits_equal_the_model_s(
    name: str, seed: int, B: int, T: int, noise: str, masked: bool
) -> None:
    model, runtime = small(name), prepared(name)
    x_BTD, positions = drawn(seed, B, T, model.config.dim)
    mask = torch.ones(T, T, dtype=torch.bool).tril().expand(B, 1, T, T) if masked else None
    is_noisy = noise_mask(noise, seed, B, T)
    expected = model.trunk(x_BTD, positions, mask, is_noisy)
    hidden = runtime.trunk(x_BTD, positions, mask, is_noisy)
    close(hidden, expected)
    close(runtime.logits(hidden), model.logits(expected))
    close(runtime.logits(hidden[0, 0]), model.logits(expected[0, 0]))


steps = st.lists(
    st.tuples(st.lists(st.integers(0, 5), min_size=3, max_size=3), kinds_of_noise, st.booleans()),
    min_size=1,
    max_size=4,
)


def run_steps(runtime: Any, model: Sensorium, plan: list[Any], seed: int) -> list[Tensor]:
    """Rows of lengths of their own take steps of ragged width; some are not committed, as in denoising."""
    cache = KVCache(model.config.num_layers, max_tokens=1000)
    for _ in range(3):
        cache.add_row()
    out = []
    for number, (counts, noise, commits) in enumerate(plan):
        rows = [row for row in range(3) if counts[row]]
        if not rows:
            continue
        new = [counts[row] for row in rows]
        B, T = len(rows), max(new)
        x_BTD, positions = drawn(seed + number, B, T, model.config.dim)
        past_B = torch.tensor([cache.lengths[row] for row in rows])
        cache.begin(rows, new)
        reach_BT = past_B[:, None] + torch.arange(T)
        mask = (torch.arange(cache.end) <= reach_BT[:, :, None])[:, None]
        if not commits:  # a block sees all of itself
            ends_B = past_B + torch.tensor(new)
            mask = (torch.arange(cache.end) < ends_B[:, None])[:, None, None]
        hidden = runtime.trunk(x_BTD, positions, mask, noise_mask(noise, seed, B, T), cache)
        out += [hidden[b, :count] for b, count in enumerate(new)]
        if commits:
            cache.commit()
    return out


@settings(max_examples=30)
@given(names, st.integers(0, 99), steps)
@torch.inference_mode()
def test_ragged_steps_over_a_cache_equal_the_model_s(name: str, seed: int, plan: list[Any]) -> None:
    expected = run_steps(small(name), small(name), plan, seed)
    for actual, wanted in zip(run_steps(prepared(name), small(name), plan, seed), expected, strict=True):
        close(actual, wanted)


@pytest.mark.slow
@pytest.mark.parametrize("weights", ["float32", "int8"])
@torch.inference_mode()
def test_compiled_rows_equal_the_model_s(weights: str) -> None:
    runtime = compiled(weights)
    assert runtime.compile_error == ""
    assert runtime.row_pieces is not None
    model = small("experts") if weights == "float32" else rounded(small("experts"))
    plan = [([0, 4, 0], "not given", True)]
    plan += [
        ([0, 1, 0], noise, commits) for noise in ("not given", "none", "all") for commits in (True, False)
    ]
    expected = run_steps(model, model, plan, 3)
    calls: list[int] = []
    between = runtime.row_pieces.between
    runtime.row_pieces.between = lambda *rest: (calls.append(1), between(*rest))[1]
    actual = run_steps(runtime, model, plan, 3)
    runtime.row_pieces.between = between
    assert len(calls) == 6 * (model.config.num_layers - 1)  # every step of one row went the compiled way
    for ours, wanted in zip(actual, expected, strict=True):
        close(ours, wanted)
        head = model.lm_head.weight if weights == "float32" else quantize(model.lm_head.weight).dequantize()  # type: ignore[union-attr]
        close(runtime.logits(ours[0]), ours[0] @ head.T)
        close(runtime.logits(ours), ours @ head.T)


@pytest.mark.parametrize("name", sorted(CONFIGS))
@torch.inference_mode()
def test_int8_equals_the_model_with_rounded_weights_and_stays_near_the_exact_one(name: str) -> None:
    model, runtime = small(name), prepared(name, "int8")
    x_BTD, positions = drawn(0, 3, 7, model.config.dim)
    is_noisy = noise_mask("some", 0, 3, 7)
    hidden = runtime.trunk(x_BTD, positions, None, is_noisy)
    close(hidden, rounded(model).trunk(x_BTD, positions, None, is_noisy))
    exact = model.trunk(x_BTD, positions, None, is_noisy)
    assert 1e-4 < float((hidden - exact).norm() / exact.norm()) < 0.03
    head = model.embed_tokens if model.lm_head is None else model.lm_head
    close(runtime.logits(hidden), hidden @ quantize(head.weight).dequantize().T)


@given(st.integers(1, 5), st.integers(1, 40), st.integers(0, 99), st.sampled_from([0.0, 1e-30, 1e-3, 1e4]))
def test_rounding_errs_by_half_a_step_at_most(N: int, quarter: int, seed: int, size: float) -> None:
    weight = size * torch.randn(N, 4 * quarter, generator=torch.Generator().manual_seed(seed))
    quantized = quantize(weight)
    error = (quantized.dequantize() - weight).abs()
    assert bool((error <= 0.5001 * quantized.scale_N[:, None]).all())
    x_1K = torch.randn(1, 4 * quarter, generator=torch.Generator().manual_seed(seed + 1))
    by_words = linear_row(x_1K, [(quantized.words_NQ, quantized.scale_N), weight])
    expected = torch.cat([x_1K @ quantized.dequantize().T, x_1K @ weight.T], dim=1)
    close(by_words / max(size, 1e-20), expected / max(size, 1e-20), 1e-4)


def test_widths_that_int8_cannot_take_are_refused() -> None:
    with pytest.raises(ValueError, match="in fours"):
        quantize(torch.zeros(2, 6))
    with pytest.raises(ValueError, match="weights='int4'"):
        prepare_for_inference(small("plain"), weights="int4")  # type: ignore[arg-type]


def test_without_a_compiler_there_is_one_warning_and_the_same_answers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))  # nothing compiled before is found
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", ("no-such-compiler",))
    torch._dynamo.reset()
    model = random_model(small_config(num_layers=3))  # shapes that no other test compiles
    with pytest.warns(UserWarning, match="not compiled") as caught:
        runtime = prepare_for_inference(model, compile=True)
    assert sum("not compiled" in str(warning.message) for warning in caught) == 1
    assert runtime.compile_error
    assert runtime.row_pieces is None
    x_BTD, positions = drawn(0, 1, 1, model.config.dim)
    with torch.inference_mode():
        hidden = runtime.trunk(x_BTD, positions, None)
        close(hidden, model.trunk(x_BTD, positions, None))
        close(runtime.logits(hidden), model.logits(hidden))
    torch._dynamo.reset()


def test_products_that_onednn_does_not_serve_are_torch_s_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.backends.mkldnn.is_available", lambda: False)
    runtime = prepare_for_inference(small("normed"))
    assert isinstance(runtime.head, Tensor)
    x_BTD, positions = drawn(0, 2, 3, small("normed").config.dim)
    with torch.inference_mode():
        close(runtime.trunk(x_BTD, positions, None), small("normed").trunk(x_BTD, positions, None))
    half = prepare_for_inference(random_model(small_config()).bfloat16())
    assert half.trunk(x_BTD.bfloat16(), positions, None).dtype == torch.bfloat16


@pytest.mark.parametrize("kind", range(0, len(kinds()), 3))
def test_the_engine_answers_the_same(kind: int) -> None:
    runtime = _engine_runtime()
    answers = Engine(loaded_model(), TOKENIZER, runtime=runtime).generate([kinds()[kind]])
    assert_same(answers, alone(kind))


@cache
def _engine_runtime() -> InferenceRuntime:
    return prepare_for_inference(loaded_model())


def test_weights_changed_in_place_are_used() -> None:
    changing = random_model(small_config(tie_embeddings=False))
    engine = Engine(changing, TOKENIZER, runtime=prepare_for_inference(changing, compile=False))
    before = engine.generate([kinds()[2]])[0].token_ids
    with torch.no_grad():
        for parameter in changing.parameters():
            if parameter.ndim == 2:
                parameter.copy_(parameter.flip(0))
    expected = Engine(changing, TOKENIZER).generate([kinds()[2]])[0].token_ids
    assert engine.generate([kinds()[2]])[0].token_ids == expected != before


def test_the_door_lays_weights_out(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def spy(model: Sensorium, **options: Any) -> InferenceRuntime:
        asked.append(options)
        return prepare_for_inference(model, **options | {"compile": False})

    monkeypatch.setattr(interface, "prepare_for_inference", spy)
    exact, plain = load(), load(weights="int8")
    assert asked == []  # nothing is laid out before something is asked of the model
    answers = [model.generate("cat", max_tokens=4) for model in (exact, plain)]
    assert [options["weights"] for options in asked] == ["float32", "int8"]
    assert all(isinstance(answer, str) for answer in answers)
    assert exact.engine.runtime.weights == "float32"  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="weights='int3'"):
        load(weights="int3")  # type: ignore[arg-type]
