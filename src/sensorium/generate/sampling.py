"""Sampling as pure functions: a token from logits, and a signal from noise."""

from collections.abc import Callable
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

Velocity = Callable[[Tensor, float], Tensor]  # (z, t) -> dz/dt


def sample_token(
    logits_V: Tensor,
    *,
    temperature: float = 0.0,
    top_p: float = 1.0,
    top_k: int = 0,
    generator: torch.Generator | None = None,
) -> int:
    """One token id. Temperature 0 is greedy; top-p keeps the smallest set of at least that probability."""
    if temperature < 0 or not 0 < top_p <= 1 or top_k < 0:
        raise ValueError(
            f"temperature {temperature}, top_p {top_p}, top_k {top_k}: expected temperature >= 0, "
            "0 < top_p <= 1, top_k >= 0"
        )
    if temperature == 0:
        return int(logits_V.argmax())
    # Doubles, and the largest at 0: no temperature is so low that the quotient overflows.
    logits_V = logits_V.double()
    probabilities = torch.softmax((logits_V - logits_V.max()) / temperature, dim=-1)
    order = probabilities.argsort(descending=True)
    ranked = probabilities[order]
    keep = ranked.cumsum(0) - ranked < top_p
    if top_k:
        keep[top_k:] = False
    choice = torch.multinomial(ranked * keep, 1, generator=generator)
    return int(order[choice])


def integrate(
    velocity: Velocity, z: Tensor, *, num_steps: int, solver: Literal["euler", "heun"] = "euler"
) -> Tensor:
    """From noise at t = 0 to signal at t = 1.

    Euler is exact on a constant velocity. Heun averages the slopes at both ends of a step and costs two
    evaluations; its last step is Euler, since the velocity at t = 1 is not defined.
    """
    if num_steps < 1:
        raise ValueError(f"num_steps {num_steps}: expected at least 1")
    times = torch.linspace(0, 1, num_steps + 1).tolist()
    for index, (t, t_next) in enumerate(pairwise(times)):
        v = velocity(z, t)
        stepped = z + (t_next - t) * v
        if solver == "heun" and index + 1 < num_steps:
            stepped = z + (t_next - t) * 0.5 * (v + velocity(stepped, t_next))
        z = stepped
    return z
