"""One training loop for everybody: until a number of floating-point operations is spent.

Everybody gets the same schedule (over the share of the budget that is spent), clipping, weight decay, betas and moving
average, whose weights are asked. Operations are those of matrix products, convolutions and attention, forward,
backward and in the optimiser (Muon's iterations are products). Ours are counted by ``sensorium.model.flops``; the
peers' by PyTorch's counter, once for each shape of a batch, with attention as plain products so that it is seen.
"""

import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from sensorium.config import TrainConfig
from sensorium.data.loader import Loader
from sensorium.sequence.document import Document
from sensorium.train.optimizer import EMA, MuonAdamW, learning_rate


class Learner(Protocol):
    """A model with its work.

    ``flops`` gives the operations of forward and backward on a batch, or the shape of the batch by which PyTorch's
    counter is to keep them.
    """

    model: nn.Module

    def collate(self, documents: Sequence[Document]) -> Any:
        """Documents of a step -> a batch."""
        ...

    def loss(self, batch: Any, seed: int) -> Tensor:
        """What is minimised."""
        ...

    def flops(self, batch: Any) -> float | tuple[Hashable, ...]:
        """Operations of a batch, or its shape."""
        ...


def counted(run: Callable[[], Any]) -> float:
    """Operations of a call by PyTorch's counter."""
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        run()
    return float(counter.get_total_flops())


def learn(learner: Learner, loader: Loader, config: TrainConfig, budget_tflop: float) -> dict[str, Any]:
    """Train until the budget is spent; the model then has the averaged weights.

    Returns:
        what was spent: steps, samples, teraflops, seconds; ``charged_over_counted`` sets what the first step was
        charged beside what PyTorch's counter says of it.
    """
    model = learner.model.train()
    optimizer, ema = MuonAdamW(model, config), EMA(model, config.ema_decay)
    known: dict[Hashable, float] = {}
    spent, step, samples, check, of_optimizer = 0.0, 0, 0, 1.0, 0.0
    started, cpu_started = time.perf_counter(), time.process_time()
    while spent < budget_tflop * 1e12:
        found = loader.samples(step)
        batch = learner.collate(found.documents)
        optimizer.set_lr(learning_rate(spent / (budget_tflop * 1e12), config))

        def backward(batch: Any = batch, step: int = step) -> None:
            model.zero_grad()
            learner.loss(batch, step).backward()

        cost = learner.flops(batch)
        if isinstance(cost, tuple):
            if cost in known:
                backward()
            else:
                known[cost] = counted(backward)
            cost = known[cost]
        elif step == 0:
            check = cost / counted(backward)
        else:
            backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.grad_clip)
        if step == 0:
            of_optimizer = counted(optimizer.step)
        else:
            optimizer.step()
        step += 1
        ema.update(model, step)
        spent += cost + of_optimizer
        samples += found.num_visits
    model.load_state_dict(ema.weights)
    return {
        "steps": step,
        "samples": samples,
        "tflop": spent / 1e12,
        "seconds": time.perf_counter() - started,
        "cpu_seconds": time.process_time() - cpu_started,
        "parameters": sum(p.numel() for p in model.parameters()),
        "optimizer_share": of_optimizer * step / spent,
        "charged_over_counted": check,
    }


@contextmanager
def resting(model: nn.Module) -> Iterator[None]:
    """A model as it is asked: no dropout, no gradients."""
    model.eval()
    with torch.no_grad():
        yield
