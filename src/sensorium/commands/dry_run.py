"""``sensorium train RECIPE --dry-run``: what a run would cost, then two real steps on its largest batch; nothing is kept."""

import dataclasses
from itertools import islice

import torch

from sensorium.commands.data.show import describe_document, print_documents
from sensorium.config import RunConfig
from sensorium.data.loader import LARGEST_OF, Loader
from sensorium.model.flops import StepFlops, build, flops_per_token
from sensorium.sequence.packing import Batch
from sensorium.sequence.tokenizer import Tokenizer
from sensorium.train.launch import start_ranks
from sensorium.train.memory import MemoryEstimate, available_bytes, estimate_memory, measure_step
from sensorium.train.sight import part_of

DOES_NOT_FIT = 1
TERMS = {
    "weights": "weights",
    "gradients": "gradients that exist then",
    "optimizer": "optimiser state",
    "average": "moving average of the weights",
    "batch": "tokens and media of the batch",
    "activations": "activations and temporaries",
}


def dry_run(config: RunConfig) -> int:
    """Print everything that is known before a run, then what a step on the largest batch says.

    Returns:
        0, or 1 where memory would not suffice: then no step is taken.
    """
    print(f"dry run of {config.name}: nothing is written, nothing is kept\n")
    _print_parameters(config)
    tokenizer = Tokenizer.load(config.tokenizer)
    batches = largest_step(config, tokenizer)
    batch, device = batches[0], start_ranks(config.train).device
    _print_batch(batches, StepFlops(config.model))
    estimate = estimate_memory(config, batches, device)
    _print_memory(estimate, device)
    shown = [
        describe_document(number, batch, tokenizer)
        for number, sample in enumerate(batch.sample_ids)
        if sample == batch.sample_ids[0]
    ]
    print(
        "\nits first sample, as the model sees it (what is predicted is what the loss counts);\n"
        "a sample drawn several times by then stands there several times"
    )
    template = batch.tasks[0].rpartition("/")[2]
    print_documents({"id": batch.sample_ids[0]}, template, config.name, config.data.row_length, shown)
    free = available_bytes(device)
    if free is not None and estimate.peak > free:
        print(
            f"\nno real step: {_mb(estimate.peak)} are needed and {_mb(free)} are free; raise train.num_microbatches, "
            "turn train.activation_checkpointing on, lower data.samples_per_step or data.row_length, take a smaller "
            "model or more devices"
        )
        return DOES_NOT_FIT
    print("\ntwo real steps on this batch ...", flush=True)
    measured = measure_step(config, batches, device)
    losses = ", ".join(f"{name} {value:.3f}" for name, value in measured.losses.items())
    print(f"  losses of the second: {losses}" + (" (z keeps logits small)" if "z" in measured.losses else ""))
    if measured.peak is None:
        print("  this system does not tell how much memory they took")
    else:
        ratio = estimate.peak / measured.peak
        print(
            f"  peak memory: predicted {_mb(estimate.peak)}, measured {_mb(measured.peak)} (ratio {ratio:.2f})"
        )
    return 0


def largest_step(config: RunConfig, tokenizer: Tokenizer) -> list[Batch]:
    """The micro-batches of the largest of the first steps."""
    loader = Loader(
        dataclasses.replace(config.data, largest_first=True, num_workers=0),
        config.model,
        tokenizer,
        config.train.seed,
        num_microbatches=config.train.num_microbatches,
    )
    return [batch for _, batch in islice(loader.stream(0, 1), config.train.num_microbatches)]


def _print_parameters(config: RunConfig) -> None:
    model = build(config.model)
    parts: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        part = part_of(name)
        parts[part] = parts.get(part, 0) + parameter.numel()
    print(f"{'parameters':<34}{sum(parts.values()):>16,}")
    for part, number in parts.items():
        print(f"  {part:<32}{number:>16,}")
    print(
        f"\nFLOPs of one token forward, attending to {config.data.row_length} tokens; thrice that in training"
    )
    for kind, value in flops_per_token(model, config.data.row_length).items():
        print(f"  {kind:<32}{value / 1e6:>14,.2f} M")


def _print_batch(batches: list[Batch], flops: StepFlops) -> None:
    parts = f" in {len(batches)} micro-batches, the first of them" if len(batches) > 1 else ""
    total = sum(map(flops, batches))
    print(f"\nlargest of the first {LARGEST_OF} steps: {total / 1e9:,.1f} GFLOPs{parts}:")
    batch = batches[0]
    rows, length = batch.token_ids_BT.shape
    print(
        f"  {rows} rows of {length} positions, {batch.num_tokens:,} of {rows * length:,} in use "
        f"({batch.num_tokens / rows / length:.0%}); {len(batch.sample_ids)} documents, {len(batch.emb_a_M)} pairs"
    )
    for role, group in (("seen", batch.context), ("generated", batch.targets)):
        for name, media in group.items():
            shape = " x ".join(map(str, media.arrays_NCHW.shape))
            print(f"  {name}, {role}: {shape} in {int(media.num_patches_N.sum()):,} tokens")


def _print_memory(estimate: MemoryEstimate, device: torch.device) -> None:
    print(f"\nmemory of one process on {device.type}, predicted; the peak is in the {estimate.phase} pass")
    for name, value in estimate.terms.items():
        print(f"  {TERMS[name]:<32}{_mb(value):>16}")
    print(f"  {'peak':<32}{_mb(estimate.peak):>16}")


def _mb(num_bytes: int) -> str:
    return f"{num_bytes / 1e6:,.1f} MB"
