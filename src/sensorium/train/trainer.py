"""One readable training loop on one process.

Everything random is a function of (seed, step), so that resuming needs no generator state and is exact.
"""

import math
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from sensorium.config import RunConfig, TrainConfig
from sensorium.data.loader import Loader
from sensorium.interrupt import first_interrupt
from sensorium.losses import Loss, compute_losses
from sensorium.model.flow import draw_noise
from sensorium.model.sensorium import Sensorium
from sensorium.sequence.packing import Batch
from sensorium.sequence.tokenizer import Tokenizer
from sensorium.train.checkpoint import last_checkpoint, load_checkpoint, save_checkpoint
from sensorium.train.metrics import MetricsLog, Progress, plot_losses, write_csv
from sensorium.train.optimizer import EMA, MuonAdamW, learning_rate, tune_allocator

Sampler = Callable[["Trainer", Path], None]  # writes samples at fixed prompts into a folder


def total_loss(losses: dict[str, Loss], config: TrainConfig) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Each loss divided by its own count, then weighted and added."""
    means = {name: loss.sum / loss.count.clamp_min(1) for name, loss in losses.items()}
    flow = [mean for name, mean in means.items() if name.startswith("flow_")]
    total = (
        config.w_text * means["text"]
        + config.w_flow * sum(flow, torch.zeros_like(means["text"]))
        + config.w_align * means["align"]
        + config.z_loss * means["z"]
    )
    return total, means


class Trainer:
    """A run: model, optimiser, data, and the folder it writes to.

    Args:
        config: the resolved recipe.
        run: folder of the run.
        resume: continue from the last checkpoint in ``run``.
        sampler: called on the schedule of ``sample_every`` with a folder for its output.
    """

    def __init__(
        self, config: RunConfig, run: Path, *, resume: bool = False, sampler: Sampler | None = None
    ) -> None:
        self.config, self.run_folder, self.sampler = config, run, sampler
        found = last_checkpoint(run)
        if found and not resume:
            raise ValueError(
                f"{run} holds the checkpoint {found.name}; add --resume to continue it or "
                "choose another --out"
            )
        if resume and not found:
            raise FileNotFoundError(
                f"there is no checkpoint to resume in {run}; leave --resume out to start a new run"
            )
        run.mkdir(parents=True, exist_ok=True)
        tune_allocator()
        torch.manual_seed(config.train.seed)
        self.tokenizer = Tokenizer.load(config.tokenizer)
        self.model = Sensorium(config.model)
        self.optimizer = MuonAdamW(self.model, config.train)
        self.ema = EMA(self.model, config.train.ema_decay)
        self.loader = Loader(config.data, config.model, self.tokenizer, config.train.seed)
        self.step, self.elapsed_s, self.tokens_seen, self.samples_seen = 0, 0.0, 0, 0
        if found:
            counters = load_checkpoint(found, self.model, self.ema, self.optimizer)
            self.step, self.elapsed_s = counters["step"], counters["elapsed_s"]
            self.tokens_seen, self.samples_seen = counters["tokens_seen"], counters["samples_seen"]
        self.log = MetricsLog(run, self.step)

    @property
    def progress(self) -> float:
        """Share of the run that is done: steps, or seconds where a time budget is further along."""
        train = self.config.train
        by_time = self.elapsed_s / train.max_train_s if train.max_train_s else 0.0
        return min(1.0, max(self.step / train.num_steps, by_time))

    def train(self) -> Path:
        """Run to the end of the budget; returns the last checkpoint.

        Raises:
            KeyboardInterrupt: after a first Ctrl-C, once the step is done and saved; a second one interrupts at
                once.
        """
        self.model.train()
        stream: Any = self.loader.stream(self.step, self.config.train.num_steps)
        line = Progress()
        try:
            with first_interrupt() as interrupted:
                self._loop(stream, line, interrupted)
        finally:
            stream.close()
            line.close()
        final = self.save()
        if self.sampler:
            self.sample()
        write_csv(self.run_folder)
        plot_losses(self.run_folder)
        return final

    def _loop(
        self, stream: Iterator[tuple[int, Batch]], line: Progress, interrupted: threading.Event
    ) -> None:
        train = self.config.train
        started, waited, before = time.perf_counter(), 0.0, self.elapsed_s
        while self.progress < 1.0:
            asked = time.perf_counter()
            _, batch = next(stream)
            waited += (data_wait_s := time.perf_counter() - asked)
            values = self.train_step(batch)
            self.elapsed_s = before + time.perf_counter() - started
            step_s = time.perf_counter() - asked
            values |= {
                "tokens_per_s": batch.num_tokens / step_s,
                "data_wait_s": data_wait_s,
                "elapsed_s": self.elapsed_s,
            }
            self.log.write(values)
            self._check_finite(values, batch)
            if self.step % train.log_every == 0 or self.progress >= 1.0:
                eta_s = self.elapsed_s / max(self.progress, 1e-9) * (1 - self.progress)
                line.show(values | {"data_wait_s": waited}, num_steps=train.num_steps, eta_s=eta_s)
                waited = 0.0
            if interrupted.is_set():
                self.save()
                raise KeyboardInterrupt
            if self.progress < 1.0:
                if train.save_every and self.step % train.save_every == 0:
                    self.save()
                if self.sampler and train.sample_every and self.step % train.sample_every == 0:
                    self.sample()

    def train_step(self, batch: Batch) -> dict[str, Any]:
        """Forward, losses by their counts, backward, clip, step, average."""
        lr = learning_rate(self.progress, self.config.train)
        self.optimizer.set_lr(lr)
        generator = torch.Generator().manual_seed(self.config.train.seed * 1_000_003 + self.step)
        noise = draw_noise(batch, self.config.model, generator)
        losses = compute_losses(self.model, batch, noise)
        total, means = total_loss(losses, self.config.train)
        self.optimizer.zero_grad()
        total.backward()
        grad_norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.train.grad_clip)
        self.optimizer.step()
        self.step += 1
        self.ema.update(self.model, self.step)
        self.tokens_seen += batch.num_tokens
        self.samples_seen += batch.num_visits - len(batch.bad) - len(batch.over_budget)
        return {
            "step": self.step,
            **{f"loss_{name}": float(mean.detach()) for name, mean in means.items() if name != "z"},
            "loss": float(total.detach()),
            "lr": lr,
            "grad_norm": float(grad_norm),
            "tokens_seen": self.tokens_seen,
            "samples_seen": self.samples_seen,
        }

    def _check_finite(self, values: dict[str, Any], batch: Batch) -> None:
        if not math.isfinite(values["loss"]) or not math.isfinite(values["grad_norm"]):
            raise ValueError(
                f"step {values['step']}: the loss is {values['loss']} and the gradient norm "
                f"{values['grad_norm']}; lower train.lr, or look at "
                f"the samples {', '.join(batch.sample_ids[:8])}, ...: "
                f"the last good checkpoint is {last_checkpoint(self.run_folder)}"
            )

    def save(self) -> Path:
        """A checkpoint of this moment."""
        counters = {
            "elapsed_s": self.elapsed_s,
            "tokens_seen": self.tokens_seen,
            "samples_seen": self.samples_seen,
        }
        return save_checkpoint(
            self.run_folder,
            self.step,
            self.model,
            self.ema,
            self.optimizer,
            self.config,
            self.tokenizer,
            counters,
        )

    def sample(self) -> None:
        """Samples at fixed prompts with the averaged weights."""
        assert self.sampler is not None
        folder = self.run_folder / "samples" / f"step-{self.step:06d}"
        folder.mkdir(parents=True, exist_ok=True)
        self.sampler(self, folder)
