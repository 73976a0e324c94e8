"""What a step of `base` costs on 8, 64 and 1,024 GPUs, on paper: FLOPs, bytes moved, data, failures.

    python benchmarks/scaling.py [--recipe base] [--json scaling.json]

Nothing is measured here: every figure follows from the recipe's shapes and the assumptions of `Cluster`, by the closed
forms below. tests/train/test_scaling.py holds the bytes against those counted in a run of two ranks, and the cost of
failures against a simulation.

B bytes, P parameters, N ranks, S ranks that share one copy of the parameters ("shard"), R = N / S copies.
"""

import argparse
import json
import math
import random
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

MB, GB = 1e6, 1e9


@dataclass(frozen=True)
class Cluster:
    """Assumptions. Sources: NVIDIA's data sheet of the H100 SXM; Llama 3 (arXiv 2407.21783, table 5) for failures."""

    flops_per_s: float = 989e12  # dense bfloat16
    mfu: float = 0.5  # of that, while nothing is waited for: issue 4 asks for this much
    gpus_per_node: int = 8
    nvlink_bytes_per_s: float = 0.8 * 450e9  # one direction, 80% reached
    network_bytes_per_s: float = 0.8 * 50e9  # 400 Gbit/s for each GPU, one direction, 80% reached
    storage_bytes_per_s: float = 2e9  # for each node, writing a checkpoint
    save_fixed_s: float = 5.0  # of every checkpoint: meeting, names, flushing
    gpu_hours_per_failure: float = (
        16_384 * 54 * 24 / 419
    )  # 419 unexpected interruptions in 54 days on 16,384 GPUs
    restart_s: float = 300.0  # notice, start again, load


@dataclass(frozen=True)
class Work:
    """A recipe's step on one rank.

    Args:
        trunk, root: parameters of the blocks, which are gathered one by one, and of everything else.
        matrices: parameters that Muon updates, whole, each on one rank.
        tokens, pairs, samples: of one rank. flops_per_token: forward and backward.
    """

    trunk: int
    root: int
    matrices: int
    tokens: int
    pairs: int
    samples: int
    latent_dim: int
    flops_per_token: float

    @property
    def parameters(self) -> int:
        return self.trunk + self.root


def gathered(num_bytes: float, ranks: int) -> float:
    """What a rank receives (and sends) when all gather rows that are ``num_bytes`` together; or reduce and scatter."""
    return num_bytes * (ranks - 1) / ranks


def step_bytes(work: Work, ranks: int, shard: int) -> dict[str, float]:
    """Bytes that one rank receives in one step, by purpose; it sends as many.

    FSDP2 gathers blocks before the forward and again before the backward pass, and the rest once; gradients are
    reduced and scattered, then summed over copies (HSDP), all in float32; Muon's matrices travel to their owners and back;
    latents of both sides of all pairs are gathered, and their gradients summed.
    """
    copies = ranks // shard
    pairs = work.pairs * ranks
    return {
        "gather parameters": gathered(4.0 * (2 * work.trunk + work.root), shard),
        "reduce gradients": gathered(4.0 * work.parameters, shard),
        "sum over copies": 2 * gathered(4.0 * work.parameters / shard, copies),
        "exchange for Muon": 2 * gathered(4.0 * work.matrices / shard, shard),
        "alignment": gathered(2 * 4.0 * pairs * work.latent_dim, ranks) * 3,
    }


def step_times(work: Work, cluster: Cluster, ranks: int, shard: int) -> dict[str, float]:
    """Seconds of a step by what needs them, each as if alone.

    What stays inside a node takes NVLink; a collective that leaves it is as slow as the network. The alignment's
    products grow with all pairs: two matrices of logits, three products each in forward and backward.
    """
    moved = step_bytes(work, ranks, shard)
    inside = shard <= cluster.gpus_per_node
    fast = cluster.nvlink_bytes_per_s
    slow = cluster.network_bytes_per_s if ranks > cluster.gpus_per_node else fast
    of_shard = moved["gather parameters"] + moved["reduce gradients"] + moved["exchange for Muon"]
    align_flops = 2 * 3 * 2.0 * work.pairs * (work.pairs * ranks) * work.latent_dim
    reached = cluster.flops_per_s * cluster.mfu
    return {
        "compute": work.tokens * work.flops_per_token / reached,
        "alignment products": align_flops / reached,
        "inside a node": of_shard / fast if inside else 0.0,
        "network": (0.0 if inside else of_shard / slow)
        + (moved["sum over copies"] + moved["alignment"]) / slow,
    }


def break_even_tokens(work: Work, cluster: Cluster, ranks: int, shard: int) -> float:
    """Tokens of one rank under which communication takes longer than compute, with as many pairs for each token.

    Parameters cost the same whatever the batch; latents grow with it as compute does.
    """
    no_pairs = Work(**{**asdict(work), "pairs": 0})
    fixed = step_times(no_pairs, cluster, ranks, shard)
    per_token = (step_times(work, cluster, ranks, shard)["network"] - fixed["network"]) / work.tokens
    compute_per_token = work.flops_per_token / (cluster.flops_per_s * cluster.mfu)
    if per_token >= compute_per_token:
        return math.inf
    return max(fixed["network"] / (compute_per_token - per_token), fixed["inside a node"] / compute_per_token)


def best_interval_s(save_s: float, between_failures_s: float) -> float:
    """Seconds between checkpoints that lose the least: sqrt(2 C M) (Young, 1974; first order in C / M)."""
    return math.sqrt(2 * save_s * between_failures_s)


def lost_share(interval_s: float, save_s: float, between_failures_s: float, restart_s: float) -> float:
    """Share of the time that is no progress: saving, and half an interval and a restart for each failure (Daly, 2006)."""
    return save_s / (interval_s + save_s) + (interval_s / 2 + restart_s) / between_failures_s


def simulate_lost_share(
    interval_s: float,
    save_s: float,
    between_failures_s: float,
    restart_s: float,
    *,
    num_failures: int,
    seed: int,
) -> float:
    """The same by playing it through: failures at random moments, work since the last checkpoint done again."""
    draw = random.Random(seed)
    total = useful = 0.0
    for _ in range(num_failures):
        alive_s = draw.expovariate(1 / between_failures_s)
        useful += alive_s // (interval_s + save_s) * interval_s
        total += alive_s + restart_s
    return 1 - useful / total


def work_of(recipe: str, *, tokens: int, tokens_per_sample: float) -> Work:
    """Shapes of a recipe, read from its modules."""
    from sensorium import recipes
    from sensorium.model.flops import build, flops_per_token

    config = recipes.get(recipe)
    model = build(config.model)
    trunk = {n: p for n, p in model.named_parameters() if n.startswith("layers.")}
    flops = flops_per_token(model, config.data.row_length)
    seen = [value for kind, value in flops.items() if kind != "text"]
    samples = round(tokens / tokens_per_sample)
    return Work(
        trunk=sum(p.numel() for p in trunk.values()),
        root=sum(p.numel() for p in model.parameters()) - sum(p.numel() for p in trunk.values()),
        matrices=sum(p.numel() for p in trunk.values() if p.ndim == 2),
        tokens=tokens,
        pairs=samples // 2,
        samples=samples,
        latent_dim=config.model.latent_dim,
        # Four of five tokens are patches; only supervised text reaches the vocabulary.
        flops_per_token=3 * (0.2 * flops["text"] + 0.8 * sum(seen) / len(seen)),
    )


def table(work: Work, cluster: Cluster, sample_bytes: float, save_every_s: float) -> list[dict[str, Any]]:
    """One row for each size and way of sharding."""
    rows = []
    for ranks, shard in ((8, 8), (64, 64), (64, 8), (1024, 1024), (1024, 8)):
        moved = step_bytes(work, ranks, shard)
        times = step_times(work, cluster, ranks, shard)
        computing = times["compute"] + times["alignment products"]
        step_s = max(computing, times["network"], times["inside a node"])
        samples_per_s = work.samples / step_s * cluster.gpus_per_node
        between_s = cluster.gpu_hours_per_failure * 3600 / ranks
        # Weights, average and AdamW's moments or Muon's momentum, float32; one copy is written, by as many nodes.
        state_bytes = 4.0 * (4 * work.parameters - work.matrices)
        writing_nodes = max(1.0, shard / cluster.gpus_per_node)
        save_s = cluster.save_fixed_s + state_bytes / cluster.storage_bytes_per_s / writing_nodes
        best_s = best_interval_s(save_s, between_s)
        rows.append(
            {
                "gpus": ranks,
                "shard": shard,
                "TFLOPs per GPU": work.tokens * work.flops_per_token / 1e12,
                **{f"{name}, GB": value / GB for name, value in moved.items()},
                **{f"{name}, ms": value * 1e3 for name, value in times.items()},
                "step, ms": step_s * 1e3,
                "break-even tokens per GPU": break_even_tokens(work, cluster, ranks, shard),
                "rows/s per node": samples_per_s,
                "MB/s per node": samples_per_s * sample_bytes / MB,
                "hours between failures": between_s / 3600,
                "checkpoint, s": save_s,
                "best interval, min": best_s / 60,
                "lost at best interval, %": 100 * lost_share(best_s, save_s, between_s, cluster.restart_s),
                f"lost at {save_every_s / 60:g} min, %": 100
                * lost_share(save_every_s, save_s, between_s, cluster.restart_s),
                "lost by one failure, GPU hours": ranks * (save_every_s / 2 + cluster.restart_s) / 3600,
                "million tokens/s": work.tokens * ranks / step_s / 1e6,
            }
        )
    return rows


def markdown(rows: list[dict[str, Any]]) -> str:
    """The table of docs/scaling.md: a line for each figure."""

    def cell(value: float) -> str:
        return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"

    names = [name for name in rows[0] if name not in ("gpus", "shard")]
    head = "| | " + " | ".join(f"{row['gpus']:,} GPUs, shard {row['shard']:,}" for row in rows) + " |"
    lines = [f"| {name} | " + " | ".join(cell(row[name]) for row in rows) + " |" for name in names]
    return "\n".join([head, "|---" * (len(rows) + 1) + "|", *lines]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recipe", default="base")
    parser.add_argument("--tokens", type=int, default=16_384, help="of one GPU in a step")
    parser.add_argument("--tokens-per-sample", type=float, default=320, help="a 256 px picture and its words")
    parser.add_argument("--sample-kb", type=float, default=40, help="a 256 px JPEG and its words, as stored")
    parser.add_argument("--save-every-min", type=float, default=30)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    cluster = Cluster()
    work = work_of(options.recipe, tokens=options.tokens, tokens_per_sample=options.tokens_per_sample)
    rows = table(work, cluster, options.sample_kb * 1e3, options.save_every_min * 60)
    print(
        f"{options.recipe}: {work.parameters:,} parameters, {work.trunk:,} of them in blocks; {work.tokens:,} tokens, "
    )
    print(f"{work.samples} samples and {work.pairs} pairs on each GPU in a step")
    print(markdown(rows))
    if options.json:
        about = {
            "assumptions": asdict(cluster),
            "work": asdict(work),
            "options": vars(options) | {"json": ""},
        }
        options.json.write_text(json.dumps({**about, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
