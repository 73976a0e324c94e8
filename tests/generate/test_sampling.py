"""The pure functions of sampling, in closed form."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sensorium.generate.sampling import integrate, sample_token
from sensorium.model.flow import to_clean, velocity


def draws(logits: list[float], n: int = 4000, **options: float) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    tokens = [sample_token(torch.tensor(logits), generator=generator, **options) for _ in range(n)]  # type: ignore[arg-type]
    return torch.bincount(torch.tensor(tokens), minlength=len(logits)) / n


def test_greedy_takes_the_largest() -> None:
    assert sample_token(torch.tensor([0.0, 3.0, 2.0])) == 1


def test_tokens_come_as_often_as_they_are_likely() -> None:
    logits = [0.0, 1.0, 2.0, -math.inf]
    torch.testing.assert_close(
        draws(logits, temperature=1.0), torch.tensor(logits).softmax(0), atol=0.03, rtol=0
    )
    warm = (torch.tensor(logits) / 2).softmax(0)
    torch.testing.assert_close(draws(logits, temperature=2.0), warm, atol=0.03, rtol=0)


def test_top_k_and_top_p_keep_the_likeliest() -> None:
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log().tolist()
    assert (draws(logits, temperature=1.0, top_k=2) > 0).tolist() == [True, True, False, False]
    assert (draws(logits, temperature=1.0, top_p=0.79) > 0).tolist() == [True, True, False, False]
    assert (draws(logits, temperature=1.0, top_p=0.81) > 0).tolist() == [True, True, True, False]
    assert (draws(logits, temperature=1.0, top_p=1e-9) > 0).tolist() == [True, False, False, False]
    expected = torch.tensor([0.625, 0.375, 0.0, 0.0])
    torch.testing.assert_close(draws(logits, temperature=1.0, top_k=2), expected, atol=0.03, rtol=0)


def test_a_very_low_temperature_is_greedy_and_not_a_nan() -> None:
    assert sample_token(torch.tensor([50.0, 51.0, -math.inf]), temperature=1e-40) == 1


def test_min_p_keeps_what_is_a_share_as_likely_as_the_likeliest() -> None:
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log().tolist()
    assert (draws(logits, temperature=1.0, min_p=0.29) > 0).tolist() == [True, True, True, False]
    assert (draws(logits, temperature=1.0, min_p=0.31) > 0).tolist() == [True, True, False, False]


@given(
    st.integers(0, 99),
    st.sampled_from([0.3, 0.9, 0.999]),
    st.sampled_from([0.0, 1e-6, 0.01]),
    st.floats(0.1, 5),
)
def test_a_large_vocabulary_is_sampled_as_if_it_were_sorted(
    seed: int, top_p: float, min_p: float, temperature: float
) -> None:
    """Only the likeliest tokens are ranked where they are enough."""
    logits = 3 * torch.randn(600, generator=torch.Generator().manual_seed(seed))
    probabilities = (logits.double() / temperature).softmax(0)
    ranked, order = probabilities.sort(descending=True)
    keep = (ranked.cumsum(0) - ranked < top_p) & (ranked >= min_p * ranked[0])
    cumulative = (ranked * keep).cumsum(0)
    draw = torch.rand((), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    expected = int(order[int((cumulative <= draw * cumulative[-1]).sum())])
    generator = torch.Generator().manual_seed(seed)
    token = sample_token(logits, temperature=temperature, top_p=top_p, min_p=min_p, generator=generator)
    assert token == expected


@pytest.mark.parametrize("solver", ["euler", "heun"])
@pytest.mark.parametrize("num_steps", [1, 3, 10])
def test_both_solvers_are_exact_on_a_constant_velocity(solver: str, num_steps: int) -> None:
    v = torch.tensor([1.5, -2.0])
    end = integrate(lambda z, t: v, torch.tensor([1.0, 1.0]), num_steps=num_steps, solver=solver)  # type: ignore[arg-type]
    torch.testing.assert_close(end, torch.tensor([2.5, -1.0]))


def error(solver: str, num_steps: int) -> float:
    """Of dz/dt = z + t from z = 1, whose end is 2e - 2."""
    z = torch.ones(1, dtype=torch.float64)
    return abs(float(integrate(lambda z, t: z + t, z, num_steps=num_steps, solver=solver)) - (2 * math.e - 2))  # type: ignore[arg-type]


def test_euler_is_of_first_order_and_heun_of_second() -> None:
    assert error("euler", 100) / error("euler", 200) == pytest.approx(2, rel=0.05)
    # Heun's last step is Euler: one step of local error h^2, which is of second order in the whole as well.
    assert error("heun", 100) / error("heun", 200) == pytest.approx(4, rel=0.05)
    assert error("heun", 100) < error("euler", 100) / 50


def test_no_steps_is_an_error() -> None:
    with pytest.raises(ValueError, match="num_steps 0: expected at least 1"):
        integrate(lambda z, t: z, torch.zeros(1), num_steps=0)


@given(st.integers(1, 120), st.sampled_from(["euler", "heun"]), st.sampled_from(["x", "v"]))
def test_a_perfect_network_arrives_exactly_at_the_signal(num_steps: int, solver: str, target: str) -> None:
    """Also in the last steps, where 1 - t is smaller than the clamp of training."""
    generator = torch.Generator().manual_seed(0)
    x, e = torch.randn(2, 1, 3, 4, 4, generator=generator, dtype=torch.float64)

    def slope(z: torch.Tensor, t: float) -> torch.Tensor:
        t_N = torch.tensor([t], dtype=torch.float64)
        said = x if target == "x" else x - 1.5 * e
        return velocity(to_clean(said, z, t_N, target), z, t_N)  # type: ignore[arg-type]

    end = integrate(slope, 1.5 * e, num_steps=num_steps, solver=solver)  # type: ignore[arg-type]
    torch.testing.assert_close(end, x, atol=1e-6, rtol=1e-6)
