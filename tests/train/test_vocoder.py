"""The recipe of the vocoder: it learns, it is repeatable, and a run that was cut in two ends the same."""

import dataclasses
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from sensorium.evals.sound import mel_distance, stft_distance, vocoder_ceiling
from sensorium.media.audio import griffin_lim
from sensorium.model.vocoder import VocoderConfig
from sensorium.pretrained.vocos import load_vocoder
from sensorium.starter import starter_sources
from sensorium.train.vocoder import (
    CHECKPOINT,
    SpectralLoss,
    VocoderRun,
    VocoderTrainer,
    make_batch,
    read_sounds,
)
from tests.cli.conftest import run_command

SMALL = VocoderRun(
    model=VocoderConfig(dim=16, mlp_dim=24, num_layers=2),
    data=("starter:sonic-pi",),
    num_steps=4,
    batch_size=2,
    num_frames=24,
    save_every=2,
    log_every=1,
)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_a_run_cut_in_two_ends_as_the_whole_run(tmp_path: Path) -> None:
    whole = VocoderTrainer(SMALL, tmp_path / "whole")
    whole.train()
    half = VocoderTrainer(SMALL, tmp_path / "half")
    sounds = read_sounds(SMALL.data, "train")
    while half.step < 2:
        half.train_step(*make_batch(sounds, SMALL, half.step))
    half.save()
    other = dataclasses.replace(SMALL, lr=1.0)  # what is saved counts
    resumed = VocoderTrainer(other, tmp_path / "half", resume=True)
    assert (resumed.step, resumed.run) == (2, SMALL)
    resumed.train()
    for name, value in whole.vocoder.state_dict().items():
        assert torch.equal(value, resumed.vocoder.state_dict()[name]), name
    with pytest.raises(ValueError, match="add --resume"):
        VocoderTrainer(SMALL, tmp_path / "half")
    with pytest.raises(ValueError, match="leave --resume out"):
        VocoderTrainer(SMALL, tmp_path / "new", resume=True)


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    (tmp_path / CHECKPOINT).write_bytes(b"half")
    with pytest.raises(ValueError, match=r"checkpoint\.safetensors is damaged"):
        VocoderTrainer(SMALL, tmp_path, resume=True)


def test_batches_are_a_function_of_seed_and_step() -> None:
    sounds = read_sounds(SMALL.data, "train")
    first, again = make_batch(sounds, SMALL, 3), make_batch(sounds, SMALL, 3)
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[1], make_batch(sounds, SMALL, 4)[1])
    assert first[0].shape == (2, 24, 100)
    assert first[1].shape == (2, 23 * 256)
    assert first[1].abs().max() <= 1.001


def test_the_loss_is_zero_at_the_signal_and_grows_with_noise() -> None:
    wave = torch.randn(1, 8192, generator=torch.Generator().manual_seed(0)) * 0.1
    noise = torch.randn(1, 8192, generator=torch.Generator().manual_seed(1))
    loss = SpectralLoss()
    same = loss(wave, wave)
    small, large = (loss(wave + scale * noise, wave) for scale in (0.01, 0.1))
    for name in ("mel", "stft"):
        assert same[name] < 1e-6
        assert 0 < small[name] < large[name]
    # Where the sound is exactly nothing the gradient is finite.
    silent = torch.zeros(1, 8192, requires_grad=True)
    loss(silent, wave)["stft"].backward()
    assert torch.isfinite(silent.grad).all()  # type: ignore[arg-type]


def test_distances_know_a_nearer_sound() -> None:
    wave = read_sounds(("starter:sonic-pi",), "validation")[0][:24_000]
    near, far = (vocoder_ceiling(wave, lambda m, n=n: griffin_lim(m, num_iters=n)) for n in (32, 1))
    assert mel_distance(wave, wave) == 0
    assert 0 < mel_distance(near, wave) < mel_distance(far, wave)
    assert 0 < stft_distance(near, wave) < stft_distance(far, wave)


@pytest.mark.slow
def test_it_learns_one_sound(tmp_path: Path) -> None:
    run = dataclasses.replace(
        SMALL, model=VocoderConfig(dim=48, mlp_dim=96, num_layers=3), num_steps=150, lr=3e-3
    )
    trainer = VocoderTrainer(run, tmp_path)
    batch = make_batch(read_sounds(run.data, "train"), run, 0)
    losses = [trainer.train_step(*batch) for _ in range(run.num_steps)]
    assert losses[-1]["mel"] < 0.4 * losses[0]["mel"]
    assert losses[-1]["stft"] < 0.6 * losses[0]["stft"]


def test_the_command_trains_compares_and_refuses(tmp_path: Path) -> None:
    table = pq.read_table(starter_sources()["sonic-pi"])
    pq.write_table(table, tmp_path / "sounds.parquet")
    small = ("--model.dim", "8", "--model.mlp-dim", "8", "--model.num-layers", "1", "--batch-size", "1")
    words = ("train", "vocoder", "--out", "run", "--data", "sounds.parquet", "--num-steps", "2", *small)
    done: subprocess.CompletedProcess[str] = run_command(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Griffin-Lim" in done.stdout
    assert "step 2/2" in done.stderr
    sound = load_vocoder(tmp_path / "run").sound(np.zeros((3, 100), np.float32))
    assert sound.shape == (512,)
    again = run_command(*words, cwd=tmp_path)
    assert again.returncode == 2
    assert "add --resume" in again.stderr
    assert json.loads(json.dumps(again.stderr)).count("\n") == 1
    longer = run_command("train", "vocoder", "--resume", "--out", "run", "--num-steps", "4000", cwd=tmp_path)
    assert longer.returncode == 2
    assert "saved configuration; leave --num-steps out" in longer.stderr


def test_data_without_sounds_are_refused() -> None:
    with pytest.raises(ValueError, match="no sounds in starter:wordnet"):
        read_sounds(("starter:wordnet",), "train")


def test_silence_and_stopping_early_cost_what_they_leave_out() -> None:
    wave = (0.3 * np.sin(np.arange(24_000) / 10)).astype(np.float32)
    nothing, half = wave[:0], wave[:12_000]
    silent = mel_distance(np.zeros_like(wave), wave)
    assert silent > 1
    assert mel_distance(nothing, wave) == silent
    assert 0.45 * silent < mel_distance(half, wave) < 0.65 * silent  # the cut itself is heard
    # Silence behind it does not thin an error out, and sound behind it costs.
    wrong = np.ascontiguousarray(wave[::-1]) * 0.1
    behind = np.concatenate([wrong, np.zeros(48_000, np.float32)])
    assert mel_distance(behind, wave) > 0.98 * mel_distance(wrong, wave)
    assert mel_distance(np.concatenate([wave, wave]), wave) > 0.9 * silent
    assert mel_distance(nothing, nothing) == 0
    assert np.isfinite(mel_distance(wave, nothing))
    assert stft_distance(half, wave) > 0.2
    assert np.isfinite(stft_distance(nothing, wave))
