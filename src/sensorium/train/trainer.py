"""One readable training loop, the same on one process and on many.

Everything random is a function of (seed, step) or of the sample, so that resuming needs no generator state and is exact.
"""

import json
import math
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sensorium.config import RunConfig
from sensorium.data.loader import Loader
from sensorium.data.shards import file_sha256
from sensorium.data.workers import lost_worker_explained
from sensorium.interrupt import Interruption, first_interrupt
from sensorium.losses import Loss
from sensorium.model.sensorium import Sensorium
from sensorium.pretrained import TOKENIZER_FILE, WEIGHTS_FILE, load_model, load_weights
from sensorium.sequence.packing import Batch
from sensorium.sequence.tokenizer import Tokenizer
from sensorium.train.checkpoint import last_checkpoint, load_checkpoint, save_checkpoint, tidy
from sensorium.train.evaluate import averaged_weights, evaluate, validation_loader
from sensorium.train.failures import memory_explained, write_report
from sensorium.train.growth import widen
from sensorium.train.launch import start_ranks, was_restarted
from sensorium.train.metrics import MetricsLog, Progress, plot_losses, write_csv
from sensorium.train.optimizer import EMA, MuonAdamW, is_muon, learning_rate, tune_allocator
from sensorium.train.parallel import Shards, prepare_model, use_bfloat16
from sensorium.train.sight import Amounts, Norms, TaskLosses
from sensorium.train.step import Facts, share_facts, step_losses, total_loss
from sensorium.train.trackers import open_trackers

START_FILE = "warm_start.json"  # of a run: the model whose weights it began with, and their SHA-256
MAX_PENDING = 10  # steps that wait to be looked at: each keeps its batch
Sampler = Callable[["Trainer", Path], None]  # writes samples at fixed prompts into a folder


class Trainer:
    """A run: model, optimiser, data, and the folder it writes to.

    Args:
        config: the resolved recipe.
        run: folder of the run; with several machines one that all of them see.
        resume: continue from the last checkpoint in ``run``.
        sampler: called on the schedule of ``sample_every`` with a folder for its output.
        start: folder of a model of this shape, or half as wide (``growth.widen``), whose weights and tokenizer the run
            starts from instead of from nothing; where losses on held-out data are asked for, its own is the first, and
            it is the best until one is lower.
    """

    def __init__(
        self,
        config: RunConfig,
        run: Path,
        *,
        resume: bool = False,
        sampler: Sampler | None = None,
        start: Path | None = None,
    ) -> None:
        self.config, self.run_folder, self.sampler, self.start = config, run, sampler, start
        self.ranks = start_ranks(config.train)
        # Of several machines only that which lost a worker counts a restart.
        restarted = any(self.ranks.share(restarted=was_restarted())["restarted"])
        found = _checkpoint_to_continue(run, resume=resume, restarted=restarted)
        self.ranks.check()
        if self.ranks.is_main:
            tidy(run)
        self.ranks.check()
        run.mkdir(parents=True, exist_ok=True)
        tune_allocator()
        torch.manual_seed(config.train.seed)
        self.model = Sensorium(config.model)
        if start and not found:
            narrow, self.tokenizer, _ = load_model(start)
            load_weights(self.model, widen(narrow, config.model, str(start), config.train.seed), str(start))
            if self.ranks.is_main:
                told = {"model": str(start), "sha256": file_sha256(start / WEIGHTS_FILE)}
                (run / START_FILE).write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
        else:  # a checkpoint has the tokenizer of the model that its run started from
            self.tokenizer = Tokenizer.load(found / TOKENIZER_FILE if found else config.tokenizer)
        prepare_model(self.model, config.train, self.ranks)
        self.shards = Shards(self.model, self.ranks, lambda name, p: is_muon(name, p, config.train))
        self.optimizer = MuonAdamW(self.shards, config.train)
        self.ema = EMA(self.shards, config.train.ema_decay)
        self.loader = Loader(
            config.data,
            config.model,
            self.tokenizer,
            config.train.seed,
            rank=self.ranks.rank,
            world_size=self.ranks.world_size,
            num_microbatches=config.train.num_microbatches,
        )
        self.held_out = (
            validation_loader(config, self.tokenizer, self.ranks) if config.train.eval_every else None
        )
        self.step, self.elapsed_s, self.tokens_seen, self.samples_seen = 0, 0.0, 0, 0
        self.best_loss, self.is_best = math.inf, False  # of all held-out losses; whether this moment has it
        self.num_stale = 0  # held-out losses since the best
        if found:
            counters = load_checkpoint(found, self.shards, self.ema, self.optimizer)
            self.step, self.elapsed_s = counters["step"], counters["elapsed_s"]
            self.tokens_seen, self.samples_seen = counters["tokens_seen"], counters["samples_seen"]
            self.best_loss = counters.get("best_loss", math.inf)
            self.num_stale = counters.get("num_stale", 0)
        half = use_bfloat16(config.train, self.ranks.device)
        self.amounts = Amounts(config.model, self.ranks.device, torch.bfloat16 if half else torch.float32)
        self.norms = Norms(self.shards)
        self.log = MetricsLog(run, self.step) if self.ranks.is_main else None
        self.trackers = open_trackers(config, run, self.step) if self.ranks.is_main else []
        self.line = Progress() if self.ranks.is_main else None
        self.pending: list[tuple[dict[str, Any], Sequence[Batch]]] = []  # steps that nobody has looked at yet
        self.stopped_by: int | None = None

    @property
    def progress(self) -> float:
        """Share of the run that is done: steps, or seconds where a time budget is further along."""
        train = self.config.train
        by_time = self.elapsed_s / train.max_train_s if train.max_train_s else 0.0
        return min(1.0, max(self.step / train.num_steps, by_time))

    @property
    def is_done(self) -> bool:
        """Whether the budget is used up, or the loss on held-out data has long been no lower."""
        patience = self.config.train.patience
        return self.progress >= 1.0 or (0 < patience <= self.num_stale)

    def train(self) -> Path:
        """Run to the end of the budget, or to where held-out losses end it; returns the last checkpoint.

        Raises:
            KeyboardInterrupt: after a first Ctrl-C or SIGTERM, once the step is done and saved; a second one ends
                the process at once.
        """
        self.model.train()
        stream: Any = self.loader.stream(self.step, self.config.train.num_steps)
        try:
            with first_interrupt(signal.SIGINT, signal.SIGTERM) as interrupted, lost_worker_explained():
                if self.start and self.step == 0:
                    self._measure_start()
                self._loop(stream, interrupted)
                final = self.save()
            if self.sampler:
                self.sample()
        finally:
            stream.close()
            if self.line:
                self.line.close()
            for tracker in self.trackers:
                tracker.close()
        if self.ranks.is_main:
            write_csv(self.run_folder)
            plot_losses(self.run_folder)
        return final

    def _loop(self, stream: Iterator[tuple[int, Batch]], interrupted: Interruption) -> None:
        train = self.config.train

        def is_due(every: int) -> bool:
            """What is done at the end anyway is not due there."""
            return bool(every) and self.step % every == 0 and not self.is_done

        started, before = time.perf_counter(), self.elapsed_s
        while not self.is_done:
            asked = time.perf_counter()
            batches = [batch for _, batch in islice(stream, train.num_microbatches)]
            data_wait_s = time.perf_counter() - asked
            values = self.train_step(batches)
            # The clock of one rank, and the signals of all: every rank ends at the same step.
            now = self.ranks.share(
                elapsed=before + time.perf_counter() - started, stop=interrupted.number * interrupted.is_set()
            )
            self.elapsed_s, self.stopped_by = now["elapsed"][0], int(max(now["stop"])) or None
            step_s = time.perf_counter() - asked
            values |= {
                "tokens_per_s": values.pop("tokens") / step_s,
                **self.amounts.rates(values.pop("amounts"), step_s, self.ranks.world_size),
                "data_wait_s": data_wait_s,
                "elapsed_s": self.elapsed_s,
            }
            self._evaluate(values)
            if self._is_logged or len(self.pending) >= MAX_PENDING or not self._is_deferred:
                self.write_metrics()
            if self.stopped_by:
                self.save()
                raise KeyboardInterrupt(self.stopped_by)
            if is_due(train.save_every) or (self.is_best and not self.is_done):
                self.save()
            if self.sampler and is_due(train.sample_every):
                self.sample()

    def _measure_start(self) -> None:
        """The held-out loss of the model that the run starts from, and that model as a checkpoint."""
        values: dict[str, Any] = {"step": 0, "samples_seen": 0, "tokens_seen": 0, "elapsed_s": 0.0}
        self._evaluate(values)
        if self.log:
            self.log.write(values)
        self.save()

    def _evaluate(self, values: dict[str, Any]) -> None:
        """Where it is due, add losses on held-out data to what is logged."""
        every = self.config.train.eval_every
        if self.held_out is None or (self.step % every and self.progress < 1.0):
            return
        with averaged_weights(self.model, self.shards, self.ema):
            found = evaluate(self.model, self.held_out, self.config, self.ranks)
        values |= {name: float(value) for name, value in found.items()}
        self.is_best = values["val_loss"] < self.best_loss
        self.num_stale = 0 if self.is_best else self.num_stale + 1
        self.best_loss = min(self.best_loss, values["val_loss"])

    @property
    def _is_logged(self) -> bool:
        every = self.config.train.log_every
        return (bool(every) and self.step % every == 0) or self.is_done

    @property
    def _is_deferred(self) -> bool:
        """A GPU is not waited for in every step: its numbers are looked at when they are logged or saved."""
        return self.ranks.device.type != "cpu"

    def train_step(self, batches: Sequence[Batch]) -> dict[str, Any]:
        """Forward and backward of every micro-batch, clip, check, step, average; returns what to log."""
        config = self.config.train
        lr = learning_rate(self.progress, config)
        self.optimizer.set_lr(lr)
        self.shards.zero_grad()
        facts = share_facts(batches, self.config, self.ranks, self.amounts.of(batches))
        with memory_explained(self.step + 1, batches, self.config):
            total, means, by_task = self._backward(batches, facts)
        has_norms = bool(config.log_every) and (self.step + 1) % config.log_every == 0
        norms = self.norms.of_gradients() if has_norms else {}
        grad_norm = self.shards.clip_(config.grad_clip)
        self.tokens_seen += facts.num_tokens
        self.samples_seen += facts.num_samples
        values = {
            "step": self.step + 1,
            **{f"loss_{name}": mean for name, mean in means.items() if name != "z"},
            "loss": total,
            "lr": lr,
            "grad_norm": grad_norm,
            "tokens_seen": self.tokens_seen,
            "samples_seen": self.samples_seen,
            "tokens": facts.num_tokens,
            "amounts": facts.amounts,
            **by_task,
            **norms,
        }
        self.pending.append((values, batches))
        if not self._is_deferred:
            self._check_finite()
        self.shards.give_gradients()
        if has_norms:
            self.norms.remember_weights()
        with memory_explained(self.step + 1, batches, self.config):
            self.optimizer.step()
        self.shards.take_weights()
        if has_norms:
            values |= self.norms.of_updates()
        self.step += 1
        self.ema.update(self.shards, self.step)
        return values

    def _backward(
        self, batches: Sequence[Batch], facts: Facts
    ) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        """Gradients of the whole step; its loss and the mean of each loss over all ranks, and this rank's by task."""
        sums: list[Tensor] = []
        by_task = TaskLosses(self.config.model)
        found = step_losses(self.model, batches, facts, self.config, self.ranks)
        for batch, losses in zip(batches, found, strict=True):
            by_task.add(batch, losses)
            total_loss(losses, self.config.train)[0].backward()
            sums.append(torch.stack([loss.sum.detach() for loss in losses.values()]))
            counts = {name: loss.count for name, loss in losses.items()}
        overall = self.ranks.sum_(torch.stack(sums).sum(dim=0))
        total, means = total_loss(
            {name: Loss(overall[n], count) for n, (name, count) in enumerate(counts.items())},
            self.config.train,
        )
        return total, means, by_task.means()

    def write_metrics(self) -> None:
        """Check and write the steps that wait for it, and renew the line on the terminal."""
        self._check_finite()
        train = self.config.train
        for values, _ in self.pending:
            if self.log:
                self.log.write(values)
            for tracker in self.trackers:
                tracker.log(values)
        if self.line and self.pending and self._is_logged:
            eta_s = self.elapsed_s / max(self.progress, 1e-9) * (1 - self.progress)
            self.line.show(self.pending[-1][0], num_steps=train.num_steps, eta_s=eta_s)
        self.pending.clear()

    def _check_finite(self) -> None:
        """Turn the waiting steps' tensors into numbers; stop where one is none.

        Raises:
            ValueError: with the folder in which the batch is described. The step is neither applied nor saved.
        """
        waiting = [values for values, _ in self.pending]
        tensors = [
            (values, k) for values in waiting for k, value in values.items() if isinstance(value, Tensor)
        ]
        if tensors:
            numbers = torch.stack([values[k].detach().float() for values, k in tensors]).tolist()
            for (values, key), number in zip(tensors, numbers, strict=True):
                values[key] = number
        for values, batches in self.pending:
            if not math.isfinite(values["loss"]) or not math.isfinite(values["grad_norm"]):
                folder = write_report(
                    self.run_folder, values["step"], values, batches, self.model, self.config, self.ranks
                )
                raise ValueError(
                    f"step {values['step']}: the loss is {values['loss']} and the gradient norm {values['grad_norm']}; "
                    f"lower train.lr, or look at the batch described in {folder}; the last good checkpoint is "
                    f"{last_checkpoint(self.run_folder)}"
                )

    def save(self) -> Path:
        """A checkpoint of this moment."""
        self.write_metrics()
        counters = {
            "elapsed_s": self.elapsed_s,
            "tokens_seen": self.tokens_seen,
            "samples_seen": self.samples_seen,
            "num_stale": self.num_stale,
            **({"best_loss": self.best_loss} if math.isfinite(self.best_loss) else {}),
        }
        is_best, self.is_best = self.is_best, False
        return save_checkpoint(
            self.run_folder,
            self.step,
            self.shards,
            self.ema,
            self.optimizer,
            self.config,
            self.tokenizer,
            counters,
            is_best=is_best,
        )

    def averaged_model(self) -> Sensorium | None:
        """The averaged weights as a model of its own, on the first rank; every rank must ask."""
        weights = {name: self.shards.full(name, rows) for name, rows in self.ema.weights.items()}
        if not self.ranks.is_main:
            return None
        model = Sensorium(self.config.model)
        model.load_state_dict(weights)
        return model.eval()

    def sample(self) -> None:
        """Samples at fixed prompts with the averaged weights."""
        assert self.sampler is not None
        folder = self.run_folder / "samples" / f"step-{self.step:06d}"
        folder.mkdir(parents=True, exist_ok=True)
        self.sampler(self, folder)
        for tracker in self.trackers:
            tracker.samples(self.step, folder)


def _checkpoint_to_continue(run: Path, *, resume: bool, restarted: bool) -> Path | None:
    found = last_checkpoint(run)
    if found and not (resume or restarted):
        raise ValueError(
            f"{run} holds the checkpoint {found.name}; add --resume to continue it or choose another --out"
        )
    if resume and not found and not restarted:
        raise FileNotFoundError(
            f"there is no checkpoint to resume in {run}; leave --resume out to start a new run"
        )
    return found
