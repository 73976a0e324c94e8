"""``sensorium eval``: a suite on anybody's data, with figures, baselines, and the worst and best cases."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated

import tyro

from sensorium.commands.arguments import parse
from sensorium.commands.data.inputs import bar
from sensorium.commands.parts import STARTER, open_model

DESCRIPTION = """Ask a model what is in your data, and set the figures beside answers that need no model.

Suites:
  vqa        questions (messages with a text answer): VQA accuracy where there are several people's answers
             (metadata "answers": a JSON list), else exact match
  retrieval  pictures or sounds with texts: R@1, R@5, R@10 and the median rank in both directions (metadata
             "captions": a JSON list of further texts)
  asr        sounds with what is said in them: word and character error rate

Writes SUITE.json, SUITE.html and SUITE.answers.jsonl into --out. Answers are kept as they come: the same command goes
on after an interruption, and gives the same figures as a run in one piece.

Examples:
  sensorium eval starter --suite vqa --data starter:easy-vqa --limit 200
  sensorium eval runs/tiny --suite retrieval --data starter:openmoji --split train --known starter:noto,starter:fluent
  sensorium eval runs/tiny --suite asr --data data/speech --normalizer whisper-english --json
"""

FEW = 30  # samples below which a figure is hardly one


@dataclass(frozen=True, kw_only=True)
class Eval:
    """Arguments of ``sensorium eval``."""

    model: Annotated[
        tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="MODEL", help_behavior_hint="")
    ] = ()
    """A model folder, a run folder, or starter (the model that ships with the package)."""
    suite: Annotated[str, tyro.conf.arg(metavar="SUITE", help_behavior_hint="(required)")] = ""
    """vqa, retrieval or asr."""
    data: Annotated[str, tyro.conf.arg(metavar="DATA", help_behavior_hint="(required)")] = ""
    """A Parquet file, a folder of shards, starter:NAME, or an address of an object store."""
    split: str = "test"
    """The split that is asked."""
    known: Annotated[
        str, tyro.conf.arg(metavar="DATA", help_behavior_hint="(default: the split train of --data)")
    ] = ""
    """Data whose split train baselines may learn from, names between commas; none for nothing."""
    out: Annotated[Path, tyro.conf.arg(metavar="FOLDER")] = Path("evaluation")
    """Where figures, page and answers go."""
    limit: int = 0
    """Samples at most, evenly spread; 0 means all."""
    prompt: Annotated[str, tyro.conf.arg(help_behavior_hint="(default: {question}; asr: transcribe)")] = ""
    """vqa: words in which {question} stands for the question; asr: what is asked after the sound."""
    normalizer: Annotated[str, tyro.conf.arg(help_behavior_hint="(default: basic)")] = ""
    """asr: plain, basic or whisper-english."""
    max_tokens: Annotated[int, tyro.conf.arg(help_behavior_hint="(default: 16; asr: 128)")] = 0
    """vqa, asr: the longest answer."""
    batch_size: int = 32
    """Prompts answered together."""
    num_resamples: int = 2000
    """Of the bootstrap intervals."""
    seed: int = 0
    """Of answers, intervals and controls."""
    overwrite: bool = False
    """Begin anew instead of going on."""
    json: bool = False
    """Print one JSON object."""


def main(arguments: Sequence[str]) -> int:
    """Evaluate, write, print."""
    chosen, given = parse(Eval, arguments, verb="eval", description=DESCRIPTION)
    if len(chosen.model) != 1:
        raise ValueError(f"{len(chosen.model)} models are named; give one: a folder, or {STARTER}")
    for name in ("suite", "data"):
        if not getattr(chosen, name):
            raise ValueError(f"--{name} is missing; see `sensorium eval --help`")
    for name, least in {"limit": 0, "seed": 0, "max_tokens": 1, "batch_size": 1, "num_resamples": 1}.items():
        if name in given and getattr(chosen, name) < least:
            raise ValueError(
                f"--{name.replace('_', '-')} is {getattr(chosen, name)}; expected at least {least}"
            )
    from sensorium.evals.report import shown_baseline, shown_interval, shown_value, write_evaluation
    from sensorium.evals.results import save_results
    from sensorium.evals.runner import ModelSubject, Options
    from sensorium.evals.suites import check, evaluate

    options = Options(**{f.name: getattr(chosen, f.name) for f in fields(Options)})
    check(chosen.suite, options)
    (name,) = chosen.model
    subject = ModelSubject(open_model(name), name)
    out = chosen.out.expanduser()
    is_new = not out.exists()
    out.mkdir(parents=True, exist_ok=True)
    try:
        found = evaluate(
            subject, chosen.suite, chosen.data, out, options, overwrite=chosen.overwrite, bar=bar
        )
    except KeyboardInterrupt:
        print(f"interrupted; answers are in {out}, and the same command goes on", file=sys.stderr)
        raise
    except (ValueError, OSError):
        if is_new and not any(out.iterdir()):
            out.rmdir()
        raise
    figures, page = out / f"{chosen.suite}.json", out / f"{chosen.suite}.html"
    save_results(figures, found.results, found.about)
    write_evaluation(found, page)
    if chosen.json:
        print(json.dumps(json.loads(figures.read_text(encoding="utf-8")), ensure_ascii=False))
        return 0
    for result in found.results:
        print(f"{result.metric}: {shown_value(result, result.value)} {shown_interval(result)}, n {result.n}")
        for other in result.baselines:
            print(f"  {other}: {shown_baseline(result, other)}")
    if min(result.n for result in found.results) < FEW:
        print(f"note: fewer than {FEW} samples say little; see how wide the intervals are")
    for note in found.about["notes"]:
        print(f"note: {note}")
    print(f"{figures}\n{page}")
    return 0
