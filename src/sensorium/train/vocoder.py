"""The recipe ``vocoder``: spectrogram to sound, learned from any sounds. There is no discriminator.

Every step's batch is a function of (seed, step), and the one checkpoint file is replaced atomically: a killed run
goes on where it was and ends where it would have ended.
"""

import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import torch
import torch.nn.functional as F
from safetensors.torch import save as to_safetensors
from torch import Tensor

from sensorium.config import from_dict
from sensorium.data.reader import Reader
from sensorium.interrupt import first_interrupt
from sensorium.media.audio import (
    HOP_LENGTH,
    MEL_FLOOR,
    N_FFT,
    SAMPLE_RATE,
    decode_audio,
    log_mel,
    mel_filters,
)
from sensorium.model.vocoder import Vocoder, VocoderConfig
from sensorium.pretrained import check_tensors, read_tensors, write_file
from sensorium.pretrained.vocos import save_vocoder

STARTER_SOUNDS = ("starter:asterisk-en", "starter:asterisk-fr", "starter:scratch", "starter:sonic-pi")
CHECKPOINT, WEIGHTS = "checkpoint.safetensors", "vocoder.safetensors"
RESOLUTIONS = ((2048, 512), (1024, 256), (512, 128), (256, 64))  # window and hop of each spectral loss
_LEVEL_DB = (-18.0, 3.0)  # random gain: the model's own sounds are of any loudness
_MAX_SPEED = 1.15  # random resampling: a few voices stand for more


@dataclass(frozen=True, kw_only=True)
class VocoderRun:
    """Everything that defines a run.

    Args:
        data: sources of sounds: "starter:NAME", Parquet files or folders.
        num_frames: of a training crop. batch_size: crops in a step.
        w_mel, w_stft: weights of the losses.
        save_every, log_every: steps; 0 means only at the end.
        max_train_s: optional budget in seconds; the schedule follows whichever is further along. 0 means none.
    """

    model: VocoderConfig = field(default_factory=VocoderConfig)
    data: tuple[str, ...] = STARTER_SOUNDS
    num_steps: int = 4000
    max_train_s: float = 0.0
    batch_size: int = 16
    num_frames: int = 64
    lr: float = 1e-3
    w_mel: float = 1.0
    w_stft: float = 1.0
    grad_clip: float = 1.0
    seed: int = 0
    save_every: int = 200
    log_every: int = 50

    def __post_init__(self) -> None:
        for name, least in (
            ("num_steps", 1),
            ("batch_size", 1),
            ("num_frames", 8),
            ("save_every", 0),
            ("log_every", 0),
        ):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; expected at least {least}")


def read_sounds(sources: tuple[str, ...], split: str) -> list[np.ndarray]:
    """Waveforms at 24 kHz of all sounds of a split.

    Raises:
        ValueError: there are none.
    """
    sounds = []
    for source in sources:
        reader = Reader(source, split)
        for number in range(len(reader.blocks)):
            for row in reader.block(number):
                media = [row["audio"]] if row.get("audio") else list(row.get("audios") or ())
                sounds += [decode_audio(m["bytes"], name=m.get("path") or row["id"]) for m in media]
    sounds = [sound for sound in sounds if sound.size > N_FFT]
    if not sounds:
        raise ValueError(f"there are no sounds in {', '.join(sources)} (split {split}); name other data")
    return sounds


def make_batch(sounds: list[np.ndarray], run: VocoderRun, step: int) -> tuple[Tensor, Tensor]:
    """Log-mel ``[B, F, 100]`` and waveforms ``[B, (F - 1) * 256]`` of random crops; a function of (seed, step).

    Longer sounds are drawn more often, and every crop is played at a speed and a loudness of its own.
    """
    import soxr

    rng = np.random.default_rng([run.seed, step])
    num_samples = (run.num_frames - 1) * HOP_LENGTH
    sizes = np.array([sound.size for sound in sounds], np.float64)
    waves = np.zeros((run.batch_size, num_samples), np.float32)
    for row, index in enumerate(rng.choice(len(sounds), run.batch_size, p=sizes / sizes.sum())):
        speed = float(np.exp(rng.uniform(-1, 1) * np.log(_MAX_SPEED)))
        wanted = int(num_samples * speed) + 64
        start = int(rng.integers(0, max(1, sounds[index].size - wanted)))
        crop = soxr.resample(sounds[index][start : start + wanted], speed * SAMPLE_RATE, SAMPLE_RATE)
        peak = float(np.abs(crop).max(initial=0.0))
        gain = min(10 ** (rng.uniform(*_LEVEL_DB) / 20), 1 / max(peak, 1e-6))
        crop = crop[:num_samples] * np.float32(gain)
        waves[row, : crop.size] = crop
    mels = np.stack([log_mel(wave) for wave in waves])
    return torch.from_numpy(mels), torch.from_numpy(waves)


class SpectralLoss:
    """Distances of spectrograms; none of them knows the phase, but a wrong one cannot be consistent with all.

    Source: the multi-resolution STFT loss of Parallel WaveGAN (arXiv 1910.11480, eq. 4 to 6) and the L1 distance
    of log-mel spectrograms of Vocos.
    """

    def __init__(self) -> None:
        self.windows = {size: torch.hann_window(size) for size, _ in RESOLUTIONS}
        self.filters = torch.from_numpy(mel_filters())

    def __call__(self, made_BS: Tensor, real_BS: Tensor) -> dict[str, Tensor]:
        """Two batches of waveforms -> ``mel`` and ``stft``, scalars."""
        stft = made_BS.new_zeros(())
        mel = made_BS.new_zeros(())
        for size, hop in RESOLUTIONS:
            made, real = self._magnitude(made_BS, size, hop), self._magnitude(real_BS, size, hop)
            norm = real.norm(dim=(1, 2)).clamp_min(1e-3)
            convergence = ((real - made).norm(dim=(1, 2)) / norm).mean()
            stft = stft + convergence + F.l1_loss(made.clamp_min(1e-4).log(), real.clamp_min(1e-4).log())
            if size == N_FFT:
                mel = F.l1_loss(self._log_mel(made), self._log_mel(real))
        return {"mel": mel, "stft": stft / len(RESOLUTIONS)}

    def _magnitude(self, wave_BS: Tensor, size: int, hop: int) -> Tensor:
        spectrum = torch.stft(wave_BS, size, hop, window=self.windows[size], return_complex=True)
        # The root has no gradient at zero.
        return (spectrum.real.square() + spectrum.imag.square() + 1e-10).sqrt()

    def _log_mel(self, magnitude_BNF: Tensor) -> Tensor:
        return (magnitude_BNF.transpose(1, 2) @ self.filters).clamp_min(MEL_FLOOR).log()


class VocoderTrainer:
    """A run and the folder it writes to.

    Args:
        resume: go on from the checkpoint in ``folder``, with the configuration that is saved there.
    """

    def __init__(self, run: VocoderRun, folder: Path, *, resume: bool = False) -> None:
        self.folder, self.step, self.elapsed_s = folder, 0, 0.0
        path = folder / CHECKPOINT
        if path.is_file() != resume:
            raise ValueError(
                f"{folder} holds no checkpoint; leave --resume out"
                if resume
                else f"{path} exists; add --resume to go on, or choose another --out"
            )
        state = _read_header(path) if resume else None
        self.run = run if state is None else from_dict(VocoderRun, state["run"])
        folder.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(self.run.seed)
        self.vocoder = Vocoder(self.run.model)
        self.optimizer = torch.optim.AdamW(
            self.vocoder.parameters(), lr=self.run.lr, betas=(0.8, 0.99), fused=True
        )
        self.loss = SpectralLoss()
        if state is not None:
            self.step, self.elapsed_s = state["step"], state["elapsed_s"]
            self._load(read_tensors(path), str(path))

    @property
    def progress(self) -> float:
        """Share of the run that is done."""
        by_time = self.elapsed_s / self.run.max_train_s if self.run.max_train_s else 0.0
        return min(1.0, max(self.step / self.run.num_steps, by_time))

    def train(self, *, show: Callable[[dict[str, Any]], None] = lambda values: None) -> Path:
        """Run to the end; returns the file of the vocoder.

        Args:
            show: called every ``log_every`` steps with step, losses and the estimated seconds that are left.

        Raises:
            KeyboardInterrupt: after Ctrl-C, once the step is done and saved.
        """
        sounds = read_sounds(self.run.data, "train")
        started, before = time.perf_counter(), self.elapsed_s
        with first_interrupt() as interrupted:
            while self.progress < 1.0 and not interrupted.is_set():
                values = self.train_step(*make_batch(sounds, self.run, self.step))
                self.elapsed_s = before + time.perf_counter() - started
                if _is_due(self.step, self.run.log_every) or self.progress >= 1.0:
                    eta_s = self.elapsed_s / self.progress * (1 - self.progress)
                    show({"step": self.step, **values, "eta_s": eta_s})
                if _is_due(self.step, self.run.save_every):
                    self.save()
        self.save()
        if interrupted.is_set():
            raise KeyboardInterrupt
        save_vocoder(self.folder / WEIGHTS, self.vocoder, dtype=torch.float16)
        return self.folder / WEIGHTS

    def train_step(self, mel_BFM: Tensor, wave_BS: Tensor) -> dict[str, float]:
        """One update; returns the losses and the learning rate."""
        warmup = min(1.0, (self.step + 1) / 100)
        lr = self.run.lr * min(warmup, max(0.02, 1 - self.progress))
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        losses = self.loss(self.vocoder(mel_BFM), wave_BS)
        total = self.run.w_mel * losses["mel"] + self.run.w_stft * losses["stft"]
        self.optimizer.zero_grad()
        total.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.vocoder.parameters(), self.run.grad_clip)
        if not torch.isfinite(norm):
            raise ValueError(
                f"step {self.step}: the gradient is not finite; lower the learning rate {self.run.lr}"
            )
        self.optimizer.step()
        self.step += 1
        return {name: float(loss.detach()) for name, loss in losses.items()} | {"lr": lr}

    def save(self) -> None:
        """Replace the checkpoint by one of this moment."""
        tensors = {f"model.{k}": v for k, v in self.vocoder.state_dict().items()}
        for name, parameter in self.vocoder.named_parameters():
            tensors |= {f"optimizer.{kind}.{name}": v for kind, v in self.optimizer.state[parameter].items()}
        header = {"step": self.step, "elapsed_s": self.elapsed_s, "run": asdict(self.run)}
        data = to_safetensors({k: v.contiguous() for k, v in tensors.items()}, {"state": json.dumps(header)})
        partial = self.folder / f".{CHECKPOINT}.partial"
        write_file(partial, data)
        os.replace(partial, self.folder / CHECKPOINT)

    def _load(self, tensors: dict[str, Tensor], where: str) -> None:
        weights = {k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")}
        check_tensors(weights, self.vocoder.state_dict(), where)
        self.vocoder.load_state_dict(weights)
        for name, parameter in self.vocoder.named_parameters():
            state = {
                kind: tensors.get(f"optimizer.{kind}.{name}") for kind in ("step", "exp_avg", "exp_avg_sq")
            }
            if self.step and any(value is None for value in state.values()):
                raise ValueError(f"{where} lacks the optimiser's state of {name!r}; start a new run")
            self.optimizer.state[parameter] = {k: v for k, v in state.items() if v is not None}


def _is_due(step: int, every: int) -> bool:
    return bool(every) and step % every == 0


def _read_header(path: Path) -> dict[str, Any]:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return dict(json.loads(file.metadata()["state"]))
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({error}); start a new run") from error
