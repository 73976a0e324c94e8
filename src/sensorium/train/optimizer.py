"""AdamW, its schedule, and the moving average of the weights."""

import ctypes
import sys
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from sensorium.config import TrainConfig


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW (arXiv 1711.05101); matrices decay, vectors and embeddings do not."""
    matrices: list[nn.Parameter] = []
    vectors: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            decays = parameter.ndim >= 2 and "embed_tokens" not in name
            (matrices if decays else vectors).append(parameter)
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, fused=True)


def learning_rate(progress: float, config: TrainConfig) -> float:
    """Linear warmup, flat, linear decay (warmup-stable-decay, arXiv 2404.06395).

    Args:
        progress: share of the run that is done, 0 to 1.
    """
    if progress < config.warmup:
        return config.lr * progress / config.warmup
    left = (1 - progress) / config.decay if config.decay else 1.0
    return config.lr * max(config.min_lr_ratio, min(1.0, left))


class EMA:
    """Exponential moving average of the weights, which is what sampling and evaluation use.

    The decay warms up as ``min(decay, (1 + step) / (10 + step))``, so that short runs are not held back by
    their initialisation.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights: dict[str, Tensor] = {
            name: value.detach().clone() for name, value in model.state_dict().items()
        }

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Move towards the model's weights."""
        decay = min(self.decay, (1 + step) / (10 + step))
        state = model.state_dict()
        torch._foreach_lerp_(list(self.weights.values()), [state[name] for name in self.weights], 1 - decay)

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Replace the average."""
        for name, value in weights.items():
            self.weights[name].copy_(value)


def tune_allocator() -> None:
    """Let glibc keep freed memory instead of returning it to the kernel after every step.

    With its default thresholds each large tensor is mapped and faulted in anew: a training step on two CPU
    cores took 0.48 s instead of 0.28 s. Other systems are left as they are.
    """
    if sys.platform != "linux":
        return
    m_trim_threshold, m_mmap_threshold = -1, -3
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is not None:
        mallopt(m_mmap_threshold, 1 << 30)
        mallopt(m_trim_threshold, (1 << 31) - 1)
