"""Flow matching with clean-signal prediction (JiT, arXiv 2511.13720).

``z = t x + (1 - t) s e`` runs from noise (t = 0) to signal (t = 1); its velocity is
``x - s e = (x - z) / (1 - t)``.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from sensorium.config import ModelConfig
from sensorium.sequence.packing import Batch

MIN_ONE_MINUS_T = 0.05  # keeps the velocity loss finite near the signal (JiT, section 4)


@dataclass
class Noise:
    """What a training step adds to one modality's targets.

    Args:
        t_N: noise level of each item, 0 noise .. 1 signal.
        e_NCHW: unit Gaussian noise.
    """

    t_N: Tensor
    e_NCHW: Tensor


def draw_noise(batch: Batch, config: ModelConfig, generator: torch.Generator) -> dict[str, Noise]:
    """Levels ``t = sigmoid(N(mu, std))`` and noise for every target of a batch.

    Each item's are drawn from the generator's next number and the item's own seed: they are the same however a step's
    samples are spread over batches and ranks.
    """
    base = int(torch.randint(2**62, (), generator=generator))
    own = torch.Generator()
    noise = {}
    for name, media in batch.targets.items():
        modality = config.modalities[name]
        t_N, e_NCHW = torch.empty(len(media.grids_N2)), torch.zeros(media.arrays_NCHW.shape)
        grids = media.grids_N2.tolist()
        for n, ((rows, cols), seed) in enumerate(zip(grids, media.seeds_N.tolist(), strict=True)):
            own.manual_seed(base ^ seed)
            t_N[n] = torch.sigmoid(modality.noise_mu + modality.noise_std * torch.randn((), generator=own))
            height, width = rows * modality.patch[0], cols * modality.patch[1]
            shape = (modality.channels, height, width)
            e_NCHW[n, :, :height, :width] = torch.randn(shape, generator=own)
        device = media.arrays_NCHW.device
        noise[name] = Noise(t_N.to(device, non_blocking=True), e_NCHW.to(device, non_blocking=True))
    return noise


def add_noise(x_NCHW: Tensor, noise: Noise, noise_scale: float) -> Tensor:
    """``z = t x + (1 - t) s e``."""
    t = noise.t_N[:, None, None, None]
    return t * x_NCHW + (1 - t) * noise_scale * noise.e_NCHW


def to_clean(prediction_NCHW: Tensor, z_NCHW: Tensor, t_N: Tensor, target: Literal["x", "v"]) -> Tensor:
    """What the network said -> its estimate of the clean signal: ``x = z + (1 - t) v``."""
    if target == "x":
        return prediction_NCHW
    return z_NCHW + (1 - t_N)[:, None, None, None] * prediction_NCHW


def velocity(x_hat_NCHW: Tensor, z_NCHW: Tensor, t_N: Tensor) -> Tensor:
    """``(x - z) / (1 - t)``, the slope of sampling.

    Without the clamp of the loss: a solver never asks for t = 1, and a smaller slope in its last steps would
    leave noise in what it draws.
    """
    return (x_hat_NCHW - z_NCHW) / (1 - t_N)[:, None, None, None]
