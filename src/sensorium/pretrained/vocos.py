"""Weights of vocoders: our own, and the public Vocos for 24 kHz mel spectrograms, in one layout."""

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save as to_safetensors
from torch import Tensor

from sensorium.media.audio import N_FFT, NUM_MELS, mel_filters
from sensorium.model.vocoder import Vocoder, VocoderConfig
from sensorium.pretrained import check_tensors, read_tensors, write_file

# Buffers of the public files that are no weights: how their spectrogram is made.
_FILTERS = "feature_extractor.mel_spec.mel_scale.fb"
_WINDOWS = ("feature_extractor.mel_spec.spectrogram.window", "head.istft.window")


def load_vocoder(path: str | Path) -> Vocoder:
    """Read a vocoder; its sizes follow from the shapes of its weights.

    Args:
        path: safetensors, or a state dict written by torch (``pytorch_model.bin`` of charactr/vocos-mel-24khz).

    Returns:
        in evaluation mode, float32.

    Raises:
        FileNotFoundError: no such file.
        ValueError: damaged, of another model, or made for another spectrogram.
    """
    file = Path(path).expanduser()
    if file.is_dir():
        file = next(
            (f for f in (file / "vocoder.safetensors", file / "pytorch_model.bin") if f.is_file()), file
        )
    if not file.is_file():
        raise FileNotFoundError(
            f"{file}: no such vocoder; give a run of `sensorium train vocoder`, a .safetensors file or a pytorch_model.bin"
        )
    tensors = _read(file)
    _check_spectrogram(tensors, file)
    weights = {k: v.float() for k, v in tensors.items() if k != _FILTERS and k not in _WINDOWS}
    vocoder = Vocoder(_sizes(weights, file))
    check_tensors(weights, vocoder.state_dict(), str(file))
    vocoder.load_state_dict(weights)
    return vocoder.eval()


def save_vocoder(path: Path, vocoder: Vocoder, *, dtype: torch.dtype = torch.float32) -> None:
    """Write the weights as safetensors."""
    tensors = {k: v.detach().to("cpu", dtype).contiguous() for k, v in vocoder.state_dict().items()}
    write_file(path, to_safetensors(tensors, metadata={"format": "sensorium-vocoder"}))


def _read(file: Path) -> dict[str, Tensor]:
    if file.suffix == ".safetensors":
        return read_tensors(file)
    try:
        loaded = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # reading a damaged file raises anything
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"{file} is no state dict of plain tensors ({reason}); take another copy or a .safetensors file"
        ) from error
    if not isinstance(loaded, dict) or not all(isinstance(v, Tensor) for v in loaded.values()):
        raise ValueError(
            f"{file} holds a {type(loaded).__name__} of other things; expected names and tensors"
        )
    return dict(loaded)


def _check_spectrogram(tensors: Mapping[str, Tensor], file: Path) -> None:
    """What the file says of its own spectrogram must be ours: another one would sound wrong, not fail."""
    window = torch.hann_window(N_FFT)
    expected = {_FILTERS: torch.from_numpy(mel_filters())} | dict.fromkeys(_WINDOWS, window)
    for name, wanted in expected.items():
        found = tensors.get(name)
        if found is not None and (
            found.shape != wanted.shape or not np.allclose(found.float().numpy(), wanted.numpy(), atol=1e-4)
        ):
            raise ValueError(
                f"{file} was made for another spectrogram ({name!r} has shape {tuple(found.shape)} or other "
                f"values); expected 24 kHz, {N_FFT}-point windows, {NUM_MELS} mel bands: take vocos-mel-24khz"
            )


def _sizes(weights: Mapping[str, Tensor], file: Path) -> VocoderConfig:
    try:
        dim = weights["backbone.embed.weight"].shape[0]
        mlp_dim = weights["backbone.convnext.0.pwconv1.weight"].shape[0]
    except KeyError as error:
        raise ValueError(f"{file} lacks the tensor {error}; it holds no Vocos: check the file") from None
    found = {match[1] for name in weights if (match := re.match(r"backbone\.convnext\.(\d+)\.", name))}
    return VocoderConfig(dim=dim, mlp_dim=mlp_dim, num_layers=len(found))
