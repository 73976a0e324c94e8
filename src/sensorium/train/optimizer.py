"""Muon, AdamW, their schedule, and the moving average of the weights."""

import ctypes
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from sensorium.config import TrainConfig


class Parameters(Protocol):
    """A module, or what one rank holds of it (``train.parallel.Shards``)."""

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """What is to be updated."""

    def state_dict(self) -> dict[str, Tensor]:
        """All tensors."""


def is_muon(name: str, parameter: nn.Parameter, config: TrainConfig) -> bool:
    """Whether Muon updates a parameter: a matrix of the trunk; of encoders' blocks where spellers alone are trained."""
    in_block = name.startswith("layers.") or (config.trained == "spellers" and ".blocks." in name)
    is_matrix = in_block and parameter.ndim == 2
    return config.optimizer == "muon" and parameter.requires_grad and is_matrix


class Muon(torch.optim.Muon):
    """PyTorch's Muon, with products in float32 on a processor that only emulates those in bfloat16.

    There, PyTorch's own iterations take three to seven times as long (EXPERIMENTS.md, section 12). The step is the one
    with ``nesterov`` and ``adjust_lr_fn="match_rms_adamw"``, which is all that ``MuonAdamW`` asks for.
    """

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One update of every matrix that has a gradient."""
        if closure is not None or not _emulates_bfloat16(self.param_groups[0]["params"][0].device):
            return super().step(closure)
        for group in self.param_groups:
            momentum, lr = group["momentum"], group["lr"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if "momentum_buffer" not in state:
                    state["momentum_buffer"] = torch.zeros_like(p.grad)
                state["momentum_buffer"].lerp_(p.grad, 1 - momentum)
                update = orthogonal(p.grad.lerp(state["momentum_buffer"], momentum), group)
                p.mul_(1 - lr * group["weight_decay"])
                p.add_(update, alpha=-0.2 * lr * max(p.shape) ** 0.5)  # arXiv 2502.16982, section 2.2
        return None


def orthogonal(matrix: Tensor, group: Mapping[str, Any]) -> Tensor:
    """The nearest matrix with singular values near 1, by Newton-Schulz iterations in the matrix's own precision.

    Args:
        group: options of Muon: ``ns_coefficients``, ``ns_steps`` and ``eps``.
    """
    a, b, c = group["ns_coefficients"]
    is_tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if is_tall else matrix
    x = x / x.norm().clamp(min=group["eps"])
    for _ in range(group["ns_steps"]):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if is_tall else x


@cache
def _emulates_bfloat16(device: torch.device) -> bool:
    cpu = torch.cpu
    return device.type == "cpu" and not (cpu._is_avx512_bf16_supported() or cpu._is_amx_tile_supported())


class MuonAdamW:
    """Muon for the trunk's matrices, AdamW for everything else, behind one optimiser's face.

    Muon orthogonalises the momentum of a matrix (Jordan et al., 2024, kellerjordan.github.io/posts/muon).
    ``adjust_lr_fn="match_rms_adamw"`` (arXiv 2502.16982) gives its updates the size of AdamW's, so that one
    learning rate serves both.
    """

    def __init__(self, model: Parameters, config: TrainConfig) -> None:
        matrices: list[tuple[str, nn.Parameter]] = []
        others: list[tuple[str, nn.Parameter]] = []
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                (matrices if is_muon(name, parameter, config) else others).append((name, parameter))
        # Matrices decay, vectors and embeddings do not.
        decaying = [p for name, p in others if p.ndim >= 2 and "embed_tokens" not in name]
        plain = [p for name, p in others if not (p.ndim >= 2 and "embed_tokens" not in name)]
        groups = [
            {"params": decaying, "weight_decay": config.weight_decay},
            {"params": plain, "weight_decay": 0.0},
        ]
        self.parts: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, fused=True)
        ]
        if matrices:
            self.parts.append(
                Muon(
                    [p for _, p in matrices],
                    lr=config.lr * config.muon_lr_scale,
                    weight_decay=config.weight_decay,
                    adjust_lr_fn="match_rms_adamw",
                )
            )
        self.home = {p: part for part in self.parts for group in part.param_groups for p in group["params"]}
        self.muon_lr_scale = config.muon_lr_scale

    def set_lr(self, lr: float) -> None:
        """The learning rate of the next step (AdamW's; Muon's is ``muon_lr_scale`` times that)."""
        for part in self.parts:
            for group in part.param_groups:
                group["lr"] = lr * (self.muon_lr_scale if isinstance(part, torch.optim.Muon) else 1.0)

    def step(self) -> None:
        """Update every parameter."""
        for part in self.parts:
            part.step()

    def state_of(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        """The optimiser's tensors of a parameter, to be saved or filled."""
        state: dict[str, Tensor] = self.home[parameter].state[parameter]
        return state

    def state_kinds(self, parameter: nn.Parameter) -> tuple[str, ...]:
        """The names in ``state_of`` after the first step."""
        is_muon = isinstance(self.home[parameter], torch.optim.Muon)
        return ("momentum_buffer",) if is_muon else ("step", "exp_avg", "exp_avg_sq")


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

    def __init__(self, model: Parameters, decay: float) -> None:
        self.decay = decay
        self.weights: dict[str, Tensor] = {
            name: value.detach().clone() for name, value in model.state_dict().items()
        }

    @torch.no_grad()
    def update(self, model: Parameters, step: int) -> None:
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
