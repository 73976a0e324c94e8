"""Text and pictures together: what pictures cost those who only want words, and what sharing costs in all.

    python benchmarks/mixed_load.py [--runs 5] [--recipe small] [--json mixed_load.json]

One process, random weights of a recipe, greedy text of a fixed length. Three loads in turns, each on a fresh engine:
16 text requests alone, 4 pictures alone, and all 20 submitted together. Latency is from submission to the last
token. The work that mixed load is compared with is the sum of the two loads alone, in the same turn. On a machine that
others use, `--clock cpu` counts the seconds of this process alone (with one thread).
"""

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import machine, report, result

NUM_TEXTS, NUM_PICTURES = 16, 4


def requests(model: Any, tokenizer: Any, num_tokens: int, num_steps: int) -> tuple[list[Any], list[Any]]:
    """Questions of different lengths, half of them on a picture; and pictures to draw."""
    from sensorium.generate.requests import MediaOptions, Request, TextOptions
    from sensorium.sequence.document import EmbSegment, MediaSegment, TextSegment

    rng = np.random.default_rng(0)
    config = model.config.modalities["image"]
    grid = config.max_grid
    first = tokenizer.size_token(255) + 1
    # No token ends an answer: every run does the same work.
    options = TextOptions(max_tokens=num_tokens)
    texts = []
    for number in range(NUM_TEXTS):
        words = TextSegment(rng.integers(first, tokenizer.vocab_size, 16 + 4 * number).tolist())
        array = rng.standard_normal((config.channels, *config.max_size)).astype(np.float32)
        seen = [MediaSegment("image", array, grid)] if number % 2 else []
        texts.append(Request(prompt=[*seen, words, TextSegment([tokenizer.assistant])], text=options))
    pictures = []
    for number in range(NUM_PICTURES):
        words = TextSegment(rng.integers(first, tokenizer.vocab_size, 12).tolist())
        pictures.append(
            Request(
                prompt=[words, EmbSegment()],
                output="image",
                without_words=[EmbSegment()],
                media=MediaOptions(num_steps=num_steps, grid=grid, seed=number),
            )
        )
    return texts, pictures


CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def serve(
    model: Any, tokenizer: Any, chosen: list[Any], clock: str
) -> tuple[float, list[float], list[float]]:
    """Seconds in all, and latencies of texts and of pictures."""
    from sensorium.generate.engine import Engine

    engine = Engine(model, tokenizer, clock=CLOCKS[clock])
    begin = engine.clock()
    handles = [engine.submit(request) for request in chosen]
    while any(not handle.is_done for handle in handles):
        engine.step()
    total = engine.clock() - begin
    texts = [h.answers[0].total_s for h in handles if h.request.output == "text"]
    pictures = [h.answers[0].total_s for h in handles if h.request.output != "text"]
    return total, texts, pictures


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--recipe", default="small")
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()

    from sensorium.model.sensorium import Sensorium
    from sensorium.recipes import get
    from sensorium.sequence.tokenizer import Tokenizer

    torch.set_num_threads(arguments.threads)
    about = machine()
    config = get(arguments.recipe)
    # The weights are random: any tokenizer does whose ids the model has.
    tokenizer = Tokenizer.load("starter-4k" if config.model.vocab_size >= 4096 else "starter-1k")
    torch.manual_seed(0)
    model = Sensorium(config.model).eval()
    with torch.no_grad():
        model.embed_tokens.weight[tokenizer.eos] = 0
    texts, pictures = requests(model, tokenizer, arguments.tokens, arguments.steps)
    about |= {
        "recipe": arguments.recipe,
        "parameters": sum(p.numel() for p in model.parameters()),
        "threads": arguments.threads,
        "clock": arguments.clock,
        "tokens": arguments.tokens,
        "steps": arguments.steps,
    }
    serve(model, tokenizer, [*texts[:2], pictures[0]], arguments.clock)  # warm
    figures: dict[str, list[float]] = {
        name: [] for name in ("alone", "mixed", "picture alone", "picture mixed", "work", "total")
    }
    for run in range(arguments.runs):
        loads = {"text": texts, "pictures": pictures, "mixed": [*texts, *pictures]}
        names = list(loads)
        measured = {
            name: serve(model, tokenizer, loads[name], arguments.clock)
            for name in names[run % 3 :] + names[: run % 3]
        }
        figures["alone"].append(float(np.percentile(measured["text"][1], 95)))
        figures["mixed"].append(float(np.percentile(measured["mixed"][1], 95)))
        figures["picture alone"].append(statistics.median(measured["pictures"][2]))
        figures["picture mixed"].append(statistics.median(measured["mixed"][2]))
        figures["work"].append(measured["text"][0] + measured["pictures"][0])
        figures["total"].append(measured["mixed"][0])
    report(
        [
            result(
                "text latency, 95th percentile", "s", figures["mixed"], "without pictures", figures["alone"]
            ),
            result(
                "picture latency, median",
                "s",
                figures["picture mixed"],
                "without text",
                figures["picture alone"],
            ),
            result("total time", "s", figures["total"], "sum of the work", figures["work"]),
        ],
        arguments.json,
        about,
    )


if __name__ == "__main__":
    main()
