"""Public Vocos weights: the same sound as the package `vocos` makes, from either kind of file."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from sensorium.media.audio import log_mel
from sensorium.model.vocoder import Vocoder, VocoderConfig
from sensorium.pretrained.vocos import load_vocoder, save_vocoder

REFERENCE = Path(__file__).parent / "reference" / "vocos.npz"


@pytest.fixture(scope="module")
def reference() -> dict[str, np.ndarray]:
    """Made by `reference/make_vocos.py` with the package `vocos`."""
    return dict(np.load(REFERENCE))


@pytest.fixture
def state(reference: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    found = {k.removeprefix("state."): v for k, v in reference.items() if k.startswith("state.")}
    return {k: torch.from_numpy(v).float() for k, v in found.items()}


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_public_weights_sound_as_in_vocos(
    tmp_path: Path, reference: dict[str, np.ndarray], state: dict[str, Any], name: str
) -> None:
    if name.endswith(".bin"):
        torch.save(state, tmp_path / name)
    else:
        save_file(state, tmp_path / name)
    vocoder = load_vocoder(tmp_path / name)
    assert vocoder.config == VocoderConfig(dim=4, mlp_dim=6, num_layers=2)
    with torch.inference_mode():
        sound = vocoder(torch.from_numpy(reference["log_mel"])[None])[0].numpy()
    np.testing.assert_allclose(sound, reference["sound"], atol=2e-4 * np.abs(reference["sound"]).max())
    np.testing.assert_allclose(log_mel(reference["wave"]), reference["log_mel"], atol=2e-3)


def test_a_folder_is_searched_and_what_we_save_loads(tmp_path: Path, state: dict[str, Any]) -> None:
    torch.save(state, tmp_path / "pytorch_model.bin")
    vocoder = load_vocoder(tmp_path)
    save_vocoder(tmp_path / "vocoder.safetensors", vocoder)
    again = load_vocoder(tmp_path)  # ours is taken first
    mel = np.random.default_rng(0).normal(-3, 2, (5, 100)).astype(np.float32)
    np.testing.assert_array_equal(vocoder.sound(mel), again.sound(mel))


def test_another_spectrogram_is_refused(tmp_path: Path, state: dict[str, Any]) -> None:
    state["feature_extractor.mel_spec.mel_scale.fb"] = state["feature_extractor.mel_spec.mel_scale.fb"][
        :, :80
    ]
    save_file({k: v.contiguous() for k, v in state.items()}, tmp_path / "v.safetensors")
    with pytest.raises(ValueError, match=r"made for another spectrogram.*vocos-mel-24khz"):
        load_vocoder(tmp_path / "v.safetensors")


def test_broken_files_are_named(tmp_path: Path, state: dict[str, Any]) -> None:
    with pytest.raises(FileNotFoundError, match="no such vocoder"):
        load_vocoder(tmp_path / "none.safetensors")
    lacking = {k: v for k, v in state.items() if k != "head.out.bias"}
    save_file(lacking, tmp_path / "lacking.safetensors")
    with pytest.raises(ValueError, match=r"lacks the tensor 'head.out.bias'"):
        load_vocoder(tmp_path / "lacking.safetensors")
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="holds no Vocos"):
        load_vocoder(tmp_path / "other.safetensors")
    (tmp_path / "cut.bin").write_bytes(b"PK\x03\x04 half a file")
    with pytest.raises(ValueError, match="no state dict"):
        load_vocoder(tmp_path / "cut.bin")


class _Trap:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("/tmp/sensorium-trap"),))


def test_a_pickle_runs_nothing(tmp_path: Path) -> None:
    torch.save({"backbone.embed.weight": _Trap()}, tmp_path / "trap.bin")
    with pytest.raises(ValueError, match="no state dict"):
        load_vocoder(tmp_path / "trap.bin")
    assert not Path("/tmp/sensorium-trap").exists()


def test_sound_is_bounded_and_of_the_stated_length() -> None:
    vocoder = Vocoder(VocoderConfig(dim=8, mlp_dim=8, num_layers=1)).eval()
    sound = vocoder.sound(np.full((7, 100), 50.0))
    assert sound.shape == (6 * 256,)
    assert np.abs(sound).max() <= 1
    for bad, message in ((np.zeros((1, 100)), "F >= 2"), (np.full((3, 100), np.nan), "not finite|infinite")):
        with pytest.raises(ValueError, match=message):
            vocoder.sound(bad)
