"""From a log-mel spectrogram to sound: a small convolutional network that writes the magnitude and the phase of a
Fourier transform, and its inverse.

Shape legend: B sounds, F frames, M mel bands, D width, S samples.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sensorium.media.audio import HOP_LENGTH, MAX_LOG_MEL, MEL_FLOOR, N_FFT, NUM_MELS

MAX_MAGNITUDE = 100.0  # Vocos clips there too


@dataclass(frozen=True, kw_only=True)
class VocoderConfig:
    """Widths. The public 24 kHz Vocos has 512, 1536 and 8.

    Args:
        dim: channels. mlp_dim: hidden channels of a block. num_layers: blocks.
    """

    dim: int = 128
    mlp_dim: int = 320
    num_layers: int = 6


class ConvNeXtBlock(nn.Module):
    """Depthwise convolution over time, norm, two pointwise layers, scaled residual (arXiv 2201.03545)."""

    def __init__(self, dim: int, mlp_dim: int, scale: float) -> None:
        super().__init__()
        self.dwconv = nn.Conv1d(dim, dim, 7, padding=3, groups=dim)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.pwconv1 = nn.Linear(dim, mlp_dim)
        self.pwconv2 = nn.Linear(mlp_dim, dim)
        self.gamma = nn.Parameter(torch.full((dim,), scale))

    def forward(self, x_BDF: Tensor) -> Tensor:
        """``[B, D, F]`` -> the same shape."""
        h_BFD = self.norm(self.dwconv(x_BDF).transpose(1, 2))
        h_BFD = self.gamma * self.pwconv2(F.gelu(self.pwconv1(h_BFD)))
        return x_BDF + h_BFD.transpose(1, 2)


class Backbone(nn.Module):
    """Log-mel -> features, without any change of the frame rate."""

    def __init__(self, config: VocoderConfig) -> None:
        super().__init__()
        self.embed = nn.Conv1d(NUM_MELS, config.dim, 7, padding=3)
        self.norm = nn.LayerNorm(config.dim, eps=1e-6)
        self.convnext = nn.ModuleList(
            ConvNeXtBlock(config.dim, config.mlp_dim, 1 / config.num_layers) for _ in range(config.num_layers)
        )
        self.final_layer_norm = nn.LayerNorm(config.dim, eps=1e-6)
        for module in self.modules():
            if isinstance(module, nn.Conv1d | nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                assert module.bias is not None
                nn.init.zeros_(module.bias)

    def forward(self, log_mel_BMF: Tensor) -> Tensor:
        """``[B, M, F]`` -> ``[B, F, D]``."""
        x_BDF = self.norm(self.embed(log_mel_BMF).transpose(1, 2)).transpose(1, 2)
        for block in self.convnext:
            x_BDF = block(x_BDF)
        return self.final_layer_norm(x_BDF.transpose(1, 2))


class ISTFTHead(nn.Module):
    """Features -> log-magnitude and phase of each bin -> samples."""

    def __init__(self, config: VocoderConfig) -> None:
        super().__init__()
        self.out = nn.Linear(config.dim, N_FFT + 2)
        self.window: Tensor
        self.register_buffer("window", torch.hann_window(N_FFT), persistent=False)

    def forward(self, x_BFD: Tensor) -> Tensor:
        """``[B, F, D]`` -> ``[B, (F - 1) * 256]``."""
        log_magnitude, phase = self.out(x_BFD).transpose(1, 2).chunk(2, dim=1)
        magnitude = log_magnitude.exp().clamp_max(MAX_MAGNITUDE)
        # cos and sin of any real number are a valid phase: no wrapping is needed.
        spectrum = torch.complex(magnitude * phase.cos(), magnitude * phase.sin())
        return torch.istft(spectrum, N_FFT, HOP_LENGTH, N_FFT, self.window, center=True)


class Vocoder(nn.Module):
    """Log-mel -> sound.

    Source: Vocos (arXiv 2306.00814), the mel model; names of parameters are those of its public weights.
    """

    def __init__(self, config: VocoderConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = Backbone(config)
        self.head = ISTFTHead(config)

    @property
    def reach(self) -> int:
        """Frames on either side that a sample depends on: three a convolution, and half a window."""
        return 3 * (1 + self.config.num_layers) + N_FFT // HOP_LENGTH // 2

    def forward(self, log_mel_BFM: Tensor) -> Tensor:
        """``[B, F, M]``, natural log of magnitudes as ``media.audio.log_mel`` gives them -> ``[B, (F-1)*256]``."""
        return self.head(self.backbone(log_mel_BFM.transpose(1, 2)))

    @torch.inference_mode()
    def sound(self, log_mel: np.ndarray) -> np.ndarray:
        """One spectrogram to one waveform: the same door as ``media.audio.griffin_lim``.

        Args:
            log_mel: float ``[F, 100]``, F at least 2.

        Returns:
            float32 ``[(F - 1) * 256]`` in [-1, 1].

        Raises:
            ValueError: another shape, or values that are not finite.
        """
        if log_mel.ndim != 2 or log_mel.shape[1] != NUM_MELS or len(log_mel) < 2:
            raise ValueError(f"log-mel has shape {list(log_mel.shape)}; expected [F, {NUM_MELS}] with F >= 2")
        if not np.isfinite(log_mel).all():
            raise ValueError("log-mel holds NaN or infinite values; expected finite ones; check what made it")
        bounded = np.clip(log_mel, np.log(MEL_FLOOR), MAX_LOG_MEL).astype(np.float32)
        return self(torch.from_numpy(bounded)[None])[0].clamp(-1, 1).numpy()
