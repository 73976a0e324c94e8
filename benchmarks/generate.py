"""Tokens per second on a CPU beside `transformers` with the same weights, and beside the speed of the memory.

    python benchmarks/generate.py [--runs 3] [--tokens 128] [--prompt 64] [--json generate.json]

A model of the shape of SmolLM2-135M (width 576, 30 layers, 9 query and 3 key-value heads, vocabulary 49,152, tied) with
random weights in float32. Ours goes through the engine, theirs through `generate` (greedy, SDPA attention, keys and
values cached); before anything is timed both must say the same tokens. In every run each of them answers once at batch 1
and once at batch 8, in turns, and a buffer far larger than any cache is read with the same threads: the bandwidth that
bounds decoding, since every weight is read once for every step.

Quality: how far the answers of 8-bit weights are from those of float32, at this shape, and on the model that ships with
the package with samples of the embedded data.
"""

import argparse
import dataclasses
import time
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from common import machine, report, result

from sensorium.config import ModelConfig
from sensorium.generate.engine import Engine
from sensorium.generate.requests import Request, TextOptions
from sensorium.generate.runtime import InferenceRuntime, prepare_for_inference
from sensorium.generate.scheduler import EngineConfig
from sensorium.model.sensorium import Sensorium
from sensorium.sequence.document import TextSegment
from sensorium.sequence.tokenizer import Tokenizer

SHAPE = ModelConfig(
    vocab_size=49_152,
    dim=576,
    num_layers=30,
    num_heads=9,
    num_kv_heads=3,
    head_dim=64,
    mlp_dim=1536,
    latent_dim=64,
    rope_theta=100_000.0,
    norm_eps=1e-5,
    qk_norm=False,
)
BATCHES = (1, 8)
THREADS = 2


def random_model() -> Sensorium:
    """Weights so large that what is said changes from token to token: those of a fresh model repeat one for ever."""
    model = Sensorium(SHAPE).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith("layers.") and parameter.ndim == 2:
                parameter.normal_(std=2 * parameter.shape[1] ** -0.5)
    return model


def to_transformers(model: Sensorium) -> Any:
    """The same tensors in `LlamaForCausalLM`; names differ by a prefix only."""
    import transformers

    config = transformers.LlamaConfig(
        vocab_size=SHAPE.vocab_size,
        hidden_size=SHAPE.dim,
        intermediate_size=SHAPE.mlp_dim,
        num_hidden_layers=SHAPE.num_layers,
        num_attention_heads=SHAPE.num_heads,
        num_key_value_heads=SHAPE.num_kv_heads,
        head_dim=SHAPE.head_dim,
        rms_norm_eps=SHAPE.norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": SHAPE.rope_theta},
        tie_word_embeddings=True,
        max_position_embeddings=SHAPE.max_position,
        bos_token_id=None,
        eos_token_id=None,
    )
    peer = transformers.LlamaForCausalLM(config).eval()
    trunk = {
        f"model.{name}": tensor
        for name, tensor in model.state_dict().items()
        if name.startswith(("embed_tokens.", "layers.", "norm."))
    }
    trunk["lm_head.weight"] = trunk["model.embed_tokens.weight"]
    peer.load_state_dict(trunk, assign=True)  # strict, and no second copy
    peer.tie_weights()
    return peer


@dataclasses.dataclass
class Timing:
    """One answer of a batch: seconds to the first token, tokens per second after it, and the tokens."""

    first_s: float
    tokens_per_s: float
    tokens: list[list[int]]

    @classmethod
    def of(cls, started: float, stamps: list[float], tokens: list[list[int]]) -> "Timing":
        assert len({len(row) for row in tokens}) == 1
        assert len(stamps) == len(tokens[0])
        num_after = (len(stamps) - 1) * len(tokens)
        return cls(stamps[0] - started, num_after / (stamps[-1] - stamps[0]), tokens)


class AnyToken(Engine):
    """The random model has no vocabulary: any id may follow."""

    def _allowed(self, request: Request) -> torch.Tensor:
        return torch.ones(SHAPE.vocab_size, dtype=torch.bool)


class Stamped:
    """A runtime that notes when logits are there."""

    def __init__(self, runtime: InferenceRuntime) -> None:
        self.runtime, self.trunk, self.stamps = runtime, runtime.trunk, list[float]()

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        out = self.runtime.logits(hidden)
        self.stamps.append(time.perf_counter())
        return out


def ours(model: Sensorium, runtime: InferenceRuntime, prompts: torch.Tensor, num_tokens: int) -> Timing:
    config = EngineConfig(prefix_tokens=0, prefill_tokens=prompts.numel())  # nothing is kept from run to run
    stamped = Stamped(runtime)
    engine = AnyToken(model, Tokenizer.bytes(), config, stamped)
    requests = [
        Request(prompt=[TextSegment(row)], text=TextOptions(max_tokens=num_tokens))
        for row in prompts.tolist()
    ]
    started = time.perf_counter()
    answers = engine.generate(requests)
    return Timing.of(started, stamped.stamps, [answer.token_ids for answer in answers])


@torch.inference_mode()
def theirs(peer: Any, prompts: torch.Tensor, num_tokens: int) -> Timing:
    stamps: list[float] = []

    def stamp(input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        stamps.append(time.perf_counter())
        return torch.zeros(len(input_ids), dtype=torch.bool)

    started = time.perf_counter()
    out = peer.generate(
        prompts,
        attention_mask=torch.ones_like(prompts),
        max_new_tokens=num_tokens,
        do_sample=False,
        pad_token_id=0,
        stopping_criteria=[stamp],
    )
    return Timing.of(started, stamps, out[:, prompts.shape[1] :].tolist())


def bandwidth(buffer: torch.Tensor) -> float:
    """GB/s of reading, the best of five."""
    best = float("inf")
    for _ in range(5):
        started = time.perf_counter()
        buffer.sum()
        best = min(best, time.perf_counter() - started)
    return buffer.numel() * buffer.element_size() / best / 1e9


def measure(model: Sensorium, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    peer = to_transformers(model)
    runtimes = {
        "float32, compiled": prepare_for_inference(model, compile=True),
        "float32": prepare_for_inference(model, compile=False),
        "int8": prepare_for_inference(model, weights="int8"),
    }
    for name, runtime in runtimes.items():
        if runtime.compile_error:
            raise SystemExit(f"{name}: {runtime.compile_error}")
    generator = torch.Generator().manual_seed(0)
    prompts = torch.randint(600, SHAPE.vocab_size, (max(BATCHES), arguments.prompt), generator=generator)
    for batch in BATCHES:  # also warms up
        expected = theirs(peer, prompts[:batch], 16).tokens
        assert len({token for row in expected for token in row}) > 8, "too few different tokens to compare"
        for name, runtime in runtimes.items():
            said = ours(model, runtime, prompts[:batch], 16).tokens
            assert name == "int8" or said == expected, f"{name}, batch {batch}: {said} != {expected}"
    buffer = torch.ones(64 * 2**20)
    runs: dict[Any, list[Timing]] = {}
    read: list[float] = []
    for run in range(arguments.runs):
        names = ["theirs", *runtimes]
        for batch in BATCHES:
            for name in names[run % len(names) :] + names[: run % len(names)]:
                read.append(bandwidth(buffer))
                some = prompts[:batch]
                timing = (
                    theirs(peer, some, arguments.tokens)
                    if name == "theirs"
                    else ours(model, runtimes[name], some, arguments.tokens)
                )
                runs.setdefault((name, batch), []).append(timing)
    return [*_speeds(runs, list(runtimes)), *_limits(runs, read, model)]


def _speeds(runs: dict[Any, list[Timing]], names: list[str]) -> list[dict[str, Any]]:
    results = []
    for batch in BATCHES:
        peer = runs["theirs", batch]
        for name in names:
            mine = runs[name, batch]
            same = sum(
                a == b
                for m, t in zip(mine, peer, strict=True)
                for a, b in zip(m.tokens, t.tokens, strict=True)
            )
            speed, other = [t.tokens_per_s for t in mine], [t.tokens_per_s for t in peer]
            line = result(
                f"batch {batch}, {name}: tokens/s", "tokens/s", speed, "transformers float32", other
            )
            results.append(line | {"same_answers": f"{same} of {batch * len(mine)}"})
            first, theirs_first = [1000 * t.first_s for t in mine], [1000 * t.first_s for t in peer]
            results.append(
                result(
                    f"batch {batch}, {name}: first token", "ms", first, "transformers float32", theirs_first
                )
            )
    return results


def _limits(runs: dict[Any, list[Timing]], read: list[float], model: Sensorium) -> list[dict[str, Any]]:
    """Share of the bandwidth limit at batch 1, against the best reading of the whole run."""
    num_bytes = 4 * sum(
        parameter.numel()
        for name, parameter in model.named_parameters()
        if name.startswith(("embed_tokens.", "layers.", "norm."))
    )
    limit = max(read) * 1e9 / num_bytes
    shares = [
        result(
            f"batch 1, {name}: share of the float32 bandwidth limit",
            "%",
            [100 * t.tokens_per_s / limit for t in runs[name, 1]],
        )
        for name in ("theirs", "float32", "float32, compiled")
    ]
    return [result("reading memory, best of each run", "GB/s", read), *shares]


@torch.inference_mode()
def logits_error(model: Sensorium, num_tokens: int = 256) -> list[dict[str, Any]]:
    """int8 against float32 on random tokens, by a fresh model: one that is timed magnifies any difference."""
    ids = torch.randint(0, SHAPE.vocab_size, (1, num_tokens), generator=torch.Generator().manual_seed(1))
    positions = torch.arange(num_tokens)[None, :, None].expand(1, num_tokens, 3)
    mask = torch.ones(1, 1, num_tokens, num_tokens, dtype=torch.bool).tril()
    exact = model.logits(model.trunk(model.embed_tokens(ids), positions, mask))
    runtime = prepare_for_inference(model, weights="int8", compile=False)
    rounded = runtime.logits(runtime.trunk(model.embed_tokens(ids), positions, mask))
    error = ((rounded - exact).norm() / exact.norm()).item()
    return [result("int8, this shape, fresh weights: relative error of logits", "%", [100 * error])]


@torch.inference_mode()
def quality(num_steps: int = 8) -> list[dict[str, Any]]:
    """int8 against float32 on supervised tokens of the embedded data, by the model that ships with the package."""
    from sensorium.data.loader import Loader
    from sensorium.generate.interface import load
    from sensorium.model.flow import draw_noise
    from sensorium.sequence.document import IGNORE

    trained = load()
    model = trained.model
    sources = tuple(dataclasses.replace(s, split="validation") for s in trained.config.data.sources)
    data = dataclasses.replace(trained.config.data, sources=sources, num_workers=0)
    loader = Loader(data, trained.config.model, trained.tokenizer, seed=1)
    runtime = prepare_for_inference(model, weights="int8", compile=False)
    losses: dict[str, list[torch.Tensor]] = {"float32": [], "int8": []}
    divergence, agreed = [], []
    for step in range(num_steps):
        batch = loader.batch(step)
        noise = draw_noise(batch, model.config, torch.Generator().manual_seed(step))
        chosen = batch.labels_BT != IGNORE
        labels = batch.labels_BT[chosen]
        logprobs = {}
        for name, trunk in (("float32", model), ("int8", runtime)):
            model_trunk, model.trunk = model.trunk, trunk.trunk  # type: ignore[method-assign, attr-defined]
            hidden = model(batch, noise)[chosen]
            model.trunk = model_trunk  # type: ignore[method-assign]
            logprobs[name] = trunk.logits(hidden).log_softmax(-1)  # type: ignore[attr-defined]
            losses[name].append(F.nll_loss(logprobs[name], labels, reduction="none"))
        a, b = logprobs["float32"], logprobs["int8"]
        divergence.append((a.exp() * (a - b)).sum(-1))
        agreed.append(a.argmax(-1) == b.argmax(-1))
    perplexity = {name: torch.cat(values).mean().exp().item() for name, values in losses.items()}
    count = sum(len(a) for a in agreed)
    return [
        result(
            f"starter model, {count:,} tokens, int8: perplexity",
            "",
            [perplexity["int8"]],
            "float32",
            [perplexity["float32"]],
        ),
        result("starter model, int8: KL from float32", "nats", [torch.cat(divergence).mean().item()]),
        result(
            "starter model, int8: same likeliest token", "%", [100 * torch.cat(agreed).float().mean().item()]
        ),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=128, help="new tokens of an answer")
    parser.add_argument("--prompt", type=int, default=64, help="tokens of a prompt")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    warnings.simplefilter("error", UserWarning)  # a fallback must not pass for a measurement
    warnings.filterwarnings("ignore", module="transformers")
    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    about = machine() | {"threads": THREADS}
    model = random_model()
    results = [*measure(model, arguments), *logits_error(Sensorium(SHAPE).eval()), *quality()]
    report(results, arguments.json, about)


if __name__ == "__main__":
    main()
