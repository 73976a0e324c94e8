"""When a step cannot be done: what to write down, and what to tell."""

import json
import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor, nn

import sensorium
from sensorium.config import RunConfig, to_dict
from sensorium.pretrained import write_file
from sensorium.sequence.packing import Batch
from sensorium.train.parallel import Ranks


def describe_batch(batch: Batch) -> dict[str, Any]:
    """A batch in JSON values: sizes, and every document with its sample, task and length."""
    sizes = torch.bincount(batch.doc_id_BT[batch.doc_id_BT >= 0].flatten(), minlength=len(batch.sample_ids))
    media = [(side, kind) for side, kind in (("context", batch.context), ("targets", batch.targets)) if kind]
    return {
        "rows": list(batch.token_ids_BT.shape),
        "tokens": batch.num_tokens,
        "pairs": len(batch.emb_a_M),
        "media": {
            f"{side} {name}": {
                "shape": list(item.arrays_NCHW.shape),
                "patches": int(item.num_patches_N.sum()),
                "finite": bool(item.arrays_NCHW.isfinite().all()),
            }
            for side, kind in media
            for name, item in kind.items()
        },
        "documents": [
            {"sample": sample, "task": task, "tokens": size}
            for sample, task, size in zip(batch.sample_ids, batch.tasks, sizes.tolist(), strict=True)
        ],
    }


def write_report(
    run: Path,
    step: int,
    values: dict[str, Any],
    batches: Sequence[Batch],
    model: nn.Module,
    config: RunConfig,
    ranks: Ranks,
) -> Path:
    """``RUN/failed-step-000123/rank-0.json``: everything that is needed to look for the cause; returns the folder."""
    folder = run / f"failed-step-{step:06d}"
    folder.mkdir(parents=True, exist_ok=True)
    bad = [
        name
        for name, parameter in model.named_parameters()
        if parameter.grad is not None and not _all_finite(parameter.grad)
    ]
    report = {
        "step": step,
        "values": {name: str(value) if isinstance(value, float) else value for name, value in values.items()},
        "gradients_not_finite": bad,
        "batches": [describe_batch(batch) for batch in batches],
        "rank": ranks.rank,
        "world_size": ranks.world_size,
        "device": str(ranks.device),
        "versions": {
            "sensorium": sensorium.__version__,
            "torch": torch.__version__,
            "numpy": numpy.__version__,
            "python": platform.python_version(),
            "system": platform.platform(),
        },
        "config": to_dict(config),
    }
    write_file(folder / f"rank-{ranks.rank}.json", (json.dumps(report, indent=2) + "\n").encode())
    return folder


def _all_finite(tensor: Any) -> bool:
    rows: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return bool(rows.isfinite().all())


@contextmanager
def memory_explained(step: int, batches: Sequence[Batch], config: RunConfig) -> Iterator[None]:
    """What does not fit is named.

    Raises:
        OSError: out of memory, with the batch and the options to lower.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise OSError(explain_memory(step, batches, config, error)) from error


def is_out_of_memory(error: BaseException) -> bool:
    """A GPU's allocator, the host's (which raises a plain RuntimeError), or Python's."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)


def explain_memory(step: int, batches: Sequence[Batch], config: RunConfig, error: BaseException) -> str:
    """One sentence: sizes, the longest samples, the way out."""
    batch = max(batches, key=lambda batch: batch.token_ids_BT.numel())
    found = describe_batch(batch)
    longest = sorted(found["documents"], key=lambda document: -document["tokens"])[:3]
    media = ", ".join(f"{name} {item['shape']}" for name, item in found["media"].items())
    data, train = config.data, config.train
    options = [
        f"train.num_microbatches (now {train.num_microbatches}: raise it, the losses stay the same)",
        *([] if train.activation_checkpointing else ["train.activation_checkpointing (now off: turn it on)"]),
        f"data.samples_per_step (now {data.samples_per_step})",
        f"data.row_length (now {data.row_length})",
        "model.modalities.*.max_size",
    ]
    return (
        f"out of memory in step {step}: a batch of {found['rows'][0]} rows of {found['rows'][1]} tokens"
        + (f", {media}" if media else "")
        + "; its longest samples are "
        + ", ".join(f"{document['sample']} ({document['tokens']} tokens)" for document in longest)
        + f"; change {', '.join(options)}; the allocator said: {' '.join(str(error).split())[:200]}"
    )
