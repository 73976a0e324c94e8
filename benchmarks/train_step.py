"""One training step beside a build from `transformers` and beside `transfusion-pytorch`, on the same samples.

    python benchmarks/train_step.py [--runs 5] [--device cpu] [--dtype float32] [--json train_step.json]

All models have 8.3 M parameters (each peer the size nearest to it) and see the same pictures (64 px, 64 patches) and texts of the embedded data,
the same 32 samples a step, half of them named pictures, half questions about pictures. A step is everything: forward,
losses, backward, clipping, optimiser, and our moving average.

- ours: 4 encoder blocks and 4 trunk blocks of width 256. Named pictures become a captioning and a drawing document:
  next-token, alignment and flow losses on one forward pass.
- ours, captions: the same model with captions and answers alone, the very work of the `transformers` build.
- transformers: `LlavaForConditionalGeneration` of a SigLIP encoder 4x256 and a Qwen3 decoder 4x256, padded to the
  longest of the batch, fused AdamW.
- transfusion: `Transfusion` of as many parameters, text then picture, fused AdamW.

Every figure comes from a fresh process, in turns, with the same allocator settings; batches are made beforehand. Real
tokens are positions that are not padding. MFU is the floating-point operations of matrix products and attention over
what a plain matrix product reaches in the same process. The peers run where they are installed:
`pip install transformers` and `pip install transfusion-pytorch`, the latter perhaps in an environment of its own, whose
interpreter `--transfusion-python` names. On a CPU that does other work, `--clock cpu` counts the processor time of one
thread instead of the time that passes.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SAMPLES, NUM_BATCHES, WARMUP = 32, 4, 2
NAMES = ("ours", "ours, captions", "transformers", "transfusion")
PATCH, SIDE, DIM, VOCAB = 8, 64, 256, 4096
RAW_SIDE = 1024


@dataclass
class Contender:
    """A model with its step.

    Args:
        step: runs one training step on batch number n and returns the loss.
        num_samples, num_tokens: of each batch; tokens are real ones.
    """

    model: Any
    step: Callable[[int], Any]
    num_samples: list[int]
    num_tokens: list[int]


def sources(templates: dict[str, float]) -> Any:
    """The embedded pictures: as many with names as with questions."""
    from sensorium.config import SourceConfig

    named = ("noto", "fluent")
    return (
        *(SourceConfig(path=f"starter:{name}", weight=1, templates=templates) for name in named),
        SourceConfig(path="starter:easy-vqa", weight=2, templates={"chat": 1}),
    )


def run_config(templates: dict[str, float]) -> Any:
    from sensorium.config import DataConfig, ModalityConfig, ModelConfig, RunConfig, TrainConfig

    image = ModalityConfig(
        channels=3, patch=(PATCH, PATCH), max_size=(SIDE, SIDE), blank=1.0, num_encoder_layers=4
    )
    return RunConfig(
        name="benchmark",
        tokenizer="starter-4k",
        model=ModelConfig(
            vocab_size=VOCAB,
            dim=DIM,
            num_layers=4,
            num_heads=4,
            num_kv_heads=2,
            head_dim=64,
            mlp_dim=816,  # as many parameters as the `transformers` build
            latent_dim=DIM,
            modalities={"image": image},
        ),
        data=DataConfig(
            sources=sources(templates),
            row_length=192,
            samples_per_step=SAMPLES,
            condition_dropout=0.0,
            media_dropout=0.0,
            augment=0.0,
        ),
        train=TrainConfig(),
    )


def batches(config: Any) -> list[Any]:
    from sensorium.data.loader import Loader
    from sensorium.sequence.tokenizer import Tokenizer

    loader = Loader(config.data, config.model, Tokenizer.load(config.tokenizer), seed=0)
    return [batch for _, batch in loader.stream(0, NUM_BATCHES)]


def ours(templates: dict[str, float], device: str, dtype: Any) -> Contender:
    import torch

    from sensorium.losses import compute_losses
    from sensorium.model.flow import draw_noise
    from sensorium.model.sensorium import Sensorium
    from sensorium.train.optimizer import EMA, MuonAdamW
    from sensorium.train.step import total_loss

    config = run_config(templates)
    data = batches(config)
    model = Sensorium(config.model).to(device).train()
    optimizer, ema = MuonAdamW(model, config.train), EMA(model, config.train.ema_decay)
    on_device = [batch.to(device) for batch in data]

    def step(n: int) -> Any:
        batch = on_device[n % NUM_BATCHES]
        noise = draw_noise(batch, config.model, torch.Generator().manual_seed(n))
        with torch.autocast(device, dtype, enabled=dtype != torch.float32):
            losses = compute_losses(model, batch, noise)
        total, _ = total_loss(losses, config.train)
        model.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.train.grad_clip)
        optimizer.step()
        ema.update(model, n)
        return total

    return Contender(model, step, [b.num_visits for b in data], [b.num_tokens for b in data])


def pictures_and_texts() -> list[list[tuple[Any, list[int], list[bool]]]]:
    """Per batch and sample: picture ``[3, 64, 64]`` in -1 .. 1, token ids, and which of them are supervised."""
    from sensorium.data.loader import Loader
    from sensorium.sequence.document import MediaSegment, TextSegment
    from sensorium.sequence.tokenizer import Tokenizer

    config = run_config({"caption": 1})
    loader = Loader(config.data, config.model, Tokenizer.load(config.tokenizer), seed=0)
    out = []
    for step in range(NUM_BATCHES):
        rows = []
        for document in loader.samples(step).documents:
            text = [s for s in document.segments if isinstance(s, TextSegment)]
            (picture,) = (s for s in document.segments if isinstance(s, MediaSegment))
            ids = [token for segment in text for token in segment.token_ids]
            rows.append((picture.array, ids, [s.supervised for s in text for _ in s.token_ids]))
        out.append(rows)
    return out


def plain_step(model: Any, loss_of: Callable[[int], Any], device: str, dtype: Any) -> Callable[[int], Any]:
    """What users of the peers write: loss, backward, clip, fused AdamW."""
    import torch

    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)

    def step(n: int) -> Any:
        with torch.autocast(device, dtype, enabled=dtype != torch.float32):
            loss = loss_of(n % NUM_BATCHES)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss

    return step


def peer_transformers(device: str, dtype: Any) -> Contender:
    from peers.llava import build, padded

    model = (
        build(run_config({}).model, VOCAB - 1, vision_layers=4, text_layers=4, mlp_dim=1024)
        .to(device)
        .train()
    )
    data = pictures_and_texts()
    batches = [padded(rows, (SIDE // PATCH) ** 2, VOCAB - 1) for rows in data]
    inputs = [{name: value.to(device) for name, value in batch.items()} for batch in batches]
    num_tokens = [int(batch["attention_mask"].sum()) for batch in batches]

    def loss_of(n: int) -> Any:
        return model(**inputs[n]).loss

    return Contender(model, plain_step(model, loss_of, device, dtype), [len(d) for d in data], num_tokens)


def peer_transfusion(device: str, dtype: Any) -> Contender:
    import torch
    from peers.transfusion import build

    from sensorium.media.modality import patchify

    size = {"dim": 232, "depth": 3, "dim_head": 64, "heads": 4}  # the nearest to ours
    model = build(VOCAB, 3 * PATCH * PATCH, ((SIDE // PATCH) ** 2,), size).to(device).train()
    data = pictures_and_texts()
    inputs = [
        [
            [
                torch.tensor(ids, device=device),
                torch.from_numpy(patchify(picture, (PATCH, PATCH))[0]).to(device),
            ]
            for picture, ids, _ in rows
        ]
        for rows in data
    ]
    num_tokens = [sum(len(part) for sample in rows for part in sample) for rows in inputs]

    def loss_of(n: int) -> Any:
        return model(inputs[n])

    return Contender(model, plain_step(model, loss_of, device, dtype), [len(d) for d in data], num_tokens)


def contender(name: str, device: str, dtype: Any) -> Contender:
    if name == "transformers":
        return peer_transformers(device, dtype)
    if name == "transfusion":
        return peer_transfusion(device, dtype)
    return ours({"caption": 1} if name == "ours, captions" else {"pair": 1}, device, dtype)


def measure(name: str, device: str, dtype_name: str, steps: int, clock: str) -> None:
    """Steps after warming up, then plain matrix products, as JSON."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from sensorium.train.optimizer import tune_allocator

    tune_allocator()
    if clock == "cpu":
        torch.set_num_threads(1)
    torch.manual_seed(0)
    dtype = getattr(torch, dtype_name)
    it = contender(name, device, dtype)
    with FlopCounterMode(display=False) as counter:
        it.step(0)
    for n in range(1, WARMUP):
        it.step(n)
    seconds = []
    for n in range(steps):
        seconds.append(_seconds(lambda n=n: it.step(n), device, clock))
    a = torch.randn(RAW_SIDE, RAW_SIDE, device=device, dtype=dtype)
    raw = 2 * RAW_SIDE**3 / min(_seconds(lambda: a @ a, device, clock) for _ in range(20)) / 1e9
    step_s = statistics.median(seconds)
    # All batches have the same number of samples, and of tokens within a percent.
    tokens_per_s = statistics.mean(it.num_tokens) / step_s
    found = {
        "samples_per_s": statistics.mean(it.num_samples) / step_s,
        "tokens_per_s": tokens_per_s,
        "gflop_per_step": counter.get_total_flops() / 1e9,
        "raw_gflops": raw,
        "mfu": 100 * counter.get_total_flops() / 1e9 / step_s / raw,
        "parameters_m": sum(p.numel() for p in it.model.parameters()) / 1e6,
    }
    if device == "cuda":
        found["device_mb"] = torch.cuda.max_memory_allocated() / 2**20
    print(json.dumps(found))


def _seconds(work: Callable[[], Any], device: str, clock: str) -> float:
    import torch

    now = time.process_time if clock == "cpu" else time.perf_counter
    wait = torch.cuda.synchronize if device == "cuda" else (lambda: None)
    wait()
    started = now()
    work()
    wait()
    return now() - started


METRICS = {
    "tokens_per_s": ("real tokens per second", "/s"),
    "samples_per_s": ("samples per second", "/s"),
    "peak_mb": ("peak memory", "MB"),
    "mfu": ("MFU", "%"),
}


def main() -> None:
    from common import machine, report, result, run_alone

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--contenders", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--transfusion-python", default=sys.executable)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    import torch

    device = options.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    where = torch.cuda.get_device_name() if device == "cuda" else "the CPU: no GPU is used"
    timed = "processor seconds of one thread" if options.clock == "cpu" else "seconds"
    print(f"On {where}, in {options.dtype}, in {timed}.")
    about = {**machine(), "device": where, "dtype": options.dtype, "clock": timed}
    names = options.contenders
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for run in range(options.runs):
        for name in names if run % 2 == 0 else names[::-1]:
            python = options.transfusion_python if name == "transfusion" else sys.executable
            arguments = ("--one", name, device, options.dtype, str(options.steps), options.clock)
            found[name].append(run_alone(__file__, *arguments, python=python))
            if device == "cuda":
                found[name][-1]["peak_mb"] = found[name][-1]["device_mb"]
    about["raw_gflops"] = [r["raw_gflops"] for rows in found.values() for r in rows]
    about |= {
        key: {name: rows[0][key] for name, rows in found.items()}
        for key in ("parameters_m", "gflop_per_step")
    }
    mine = [name for name in names if name.startswith("ours")]
    results = [
        result(
            f"{what}: {own} against",
            unit,
            [r[metric] for r in found[own]],
            peer,
            [r[metric] for r in found[peer]],
        )
        for metric, (what, unit) in METRICS.items()
        for own in mine
        for peer in names
        if peer not in mine
    ]
    report(results, options.json, about)
    raw = about["raw_gflops"]
    print(f"Plain matrix products: {statistics.median(raw):.0f} ({min(raw):.0f} to {max(raw):.0f}) GFLOP/s.")
    for key, unit in (("parameters_m", "M parameters"), ("gflop_per_step", "GFLOP a step")):
        print(f"{unit}: " + ", ".join(f"{name} {value:.2f}" for name, value in about[key].items()))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        measure(sys.argv[2], sys.argv[3], sys.argv[4], int(sys.argv[5]), sys.argv[6])
    else:
        main()
