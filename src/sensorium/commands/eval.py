"""``sensorium eval``: suites on anybody's data, with figures, baselines, and the worst and best cases."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from sensorium.commands.arguments import parse
from sensorium.commands.data.inputs import bar
from sensorium.commands.parts import STARTER, open_model

if TYPE_CHECKING:
    from sensorium.evals.judges import Judges
    from sensorium.evals.runner import ModelSubject, Options
    from sensorium.evals.summary import Done

DESCRIPTION = """Ask a model what is in your data, and set the figures beside answers that need no model.

Suites:
  vqa        questions (messages with a text answer): VQA accuracy where there are several people's answers
             (metadata "answers": a JSON list), else exact match; and whether its confidence is deserved
  retrieval  pictures or sounds with texts: R@1, R@5, R@10 and the median rank in both directions (metadata
             "captions": a JSON list of further texts)
  asr        sounds with what is said in them: word and character error rate
  tts        the same data, spoken by the model: error rates by a recogniser that is not the model (--recognizer),
             beside those of the recordings and of what the vocoder makes of them
  image      pictures with texts, drawn by the model: is it what was asked for, and the Frechet distance
  edit       picture and instruction -> picture (messages): changed where asked, unchanged elsewhere
  video      clips with names: retrieval and answers, beside what one frame gives
  medical    questions about regions of an MRI, as vqa; of where things lie, never a diagnosis
  code       drawing -> SVG code (messages): does it parse, tree edit distance, agreement of pixels
  starter    a selection of these on the data that ship with the package
  all        every suite on the full starter data (--data FOLDER); what has no data is named

Writes NAME.json, NAME.html and NAME.answers.jsonl into --out; NAME is the suite, or SUITE-SOURCE in starter and all,
which also write one page and one table over all of it. Answers are kept as they come: the same command goes on after an
interruption, and gives the same figures as a run in one piece.

Examples:
  sensorium eval starter --suite starter
  sensorium eval starter --suite vqa --data starter:easy-vqa --limit 200
  sensorium eval runs/tiny --suite retrieval --data starter:openmoji --split train --known starter:noto --known starter:fluent
  sensorium eval runs/tiny --suite asr --data data/speech --normalizer whisper-english --json
  sensorium eval runs/tiny --suite tts --data data/speech --recognizer models/whisper-base
  sensorium eval runs/small --suite all --data data/starter --limit 100
"""

FEW = 30  # samples below which a figure is hardly one
SEVERAL = ("starter", "all")
FULL_DATA = "data/starter"
# What each source of a selection has of its own.
OF_ONE = ("split", "known", "prompt", "normalizer")
LEAST = {"limit": 0, "seed": 0, "max_tokens": 1, "batch_size": 1, "num_resamples": 1, "num_steps": 1}


@dataclass(frozen=True, kw_only=True)
class Eval:
    """Arguments of ``sensorium eval``."""

    model: Annotated[
        tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="MODEL", help_behavior_hint="")
    ] = ()
    """A model folder, a run folder, or starter (the model that ships with the package)."""
    suite: Annotated[str, tyro.conf.arg(metavar="SUITE", help_behavior_hint="(required)")] = ""
    """vqa, retrieval, asr, tts, image, edit, video, medical, code, starter or all."""
    data: Annotated[
        str, tyro.conf.arg(metavar="DATA", help_behavior_hint="(required; all: data/starter; not of starter)")
    ] = ""
    """A Parquet file, a folder of shards, starter:NAME, or an address of an object store; of all: the folder of the full
    starter data."""
    split: str = "test"
    """The split that is asked."""
    known: Annotated[
        tuple[str, ...],
        tyro.conf.UseAppendAction,
        tyro.conf.arg(metavar="DATA", help_behavior_hint="(default: the split train of --data)"),
    ] = ()
    """Data whose split train baselines may learn from, given once for each; none for nothing."""
    out: Annotated[Path, tyro.conf.arg(metavar="FOLDER")] = Path("evaluation")
    """Where figures, page and answers go."""
    limit: int = 0
    """Samples at most, evenly spread; 0 means all, and of starter and all the number of each selection."""
    recognizer: Annotated[str, tyro.conf.arg(metavar="FOLDER", help_behavior_hint="")] = ""
    """tts: a Whisper model in the form of CTranslate2, which writes down what is said."""
    classifier: Annotated[str, tyro.conf.arg(metavar="FOLDER", help_behavior_hint="")] = ""
    """image: an image classifier of transformers (safetensors), whose features pictures are compared by."""
    vocoder: Annotated[str, tyro.conf.arg(metavar="PATH", help_behavior_hint="(default: Griffin-Lim)")] = ""
    """tts: what turns the spectrogram into sound, as in `sensorium generate`."""
    prompt: Annotated[
        str, tyro.conf.arg(help_behavior_hint="(default: {question}; asr: transcribe; tts: say {text}; ...)")
    ] = ""
    """vqa, medical, code: words in which {question} stands for the question; tts, image: in which {text} stands for the
    text; asr, video: what is asked after the sound or the clip."""
    normalizer: Annotated[str, tyro.conf.arg(help_behavior_hint="(default: basic)")] = ""
    """asr, tts: plain, basic or whisper-english."""
    max_tokens: Annotated[
        int, tyro.conf.arg(help_behavior_hint="(default: 16; medical: 24; asr: 128; code: 512)")
    ] = 0
    """vqa, medical, asr, video, code: the longest answer."""
    num_steps: Annotated[
        int, tyro.conf.arg(help_behavior_hint="(default: 30; edit: as `sensorium generate`)")
    ] = 0
    """tts, image, edit: steps from noise to signal."""
    guidance_scale: Annotated[
        float, tyro.conf.arg(help_behavior_hint="(default: 2.5; edit: as `sensorium generate`)")
    ] = 0.0
    """tts, image, edit: how strongly the words pull."""
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
    _check(chosen, given)
    from sensorium.evals.runner import ModelSubject, Options
    from sensorium.evals.suites import SUITES, check

    if chosen.suite not in (*SUITES, *SEVERAL):
        raise ValueError(f"unknown suite {chosen.suite!r}; known are {', '.join((*SUITES, *SEVERAL))}")
    options = Options(**{f.name: getattr(chosen, f.name) for f in fields(Options)})
    if chosen.suite not in SEVERAL:
        check(chosen.suite, options)
    judges = _judges(chosen)
    (name,) = chosen.model
    model = open_model(name)
    if chosen.vocoder:
        model.use_vocoder(chosen.vocoder)
    subject = ModelSubject(model, name, vocoder_name=chosen.vocoder)
    out = chosen.out.expanduser()
    is_new = not out.exists()
    out.mkdir(parents=True, exist_ok=True)
    try:
        if chosen.suite in SEVERAL:
            return _several(chosen, subject, options, judges, out)
        return _one(chosen, subject, options, judges, out)
    except KeyboardInterrupt:
        print(f"interrupted; answers are in {out}, and the same command goes on", file=sys.stderr)
        raise
    except (ValueError, OSError):
        if is_new and not any(out.iterdir()):
            out.rmdir()
        raise


def _check(chosen: Eval, given: set[str]) -> None:
    """Mistakes that can be told before anything is loaded."""
    if len(chosen.model) != 1:
        raise ValueError(f"{len(chosen.model)} models are named; give one: a folder, or {STARTER}")
    for name in ("suite",) if chosen.suite in SEVERAL else ("suite", "data"):
        if not getattr(chosen, name):
            raise ValueError(f"--{name} is missing; see `sensorium eval --help`")
    for name, least in LEAST.items():
        if name in given and getattr(chosen, name) < least:
            raise ValueError(
                f"--{name.replace('_', '-')} is {getattr(chosen, name)}; expected at least {least}"
            )
    if "guidance_scale" in given and not chosen.guidance_scale:
        raise ValueError(
            "--guidance-scale is 0, which would leave the words out; expected another number, 1 for no guidance"
        )
    refused = [name for name in OF_ONE if name in given] if chosen.suite in SEVERAL else []
    if chosen.suite == "starter" and "data" in given:
        refused.append("data")
    if refused:
        option = f"--{refused[0].replace('_', '-')}"
        raise ValueError(
            f"{option} with --suite {chosen.suite}, whose parts each have their own: leave it out"
        )
    for name, suite in (("recognizer", "tts"), ("vocoder", "tts"), ("classifier", "image")):
        if name in given and chosen.suite not in (suite, *SEVERAL):
            raise ValueError(f"--{name} with --suite {chosen.suite}; it belongs to {suite}: leave it out")


def _judges(chosen: Eval) -> "Judges":
    from sensorium.evals.judges import ClassifierFeatures, Judges, WhisperRecognizer

    return Judges(
        WhisperRecognizer(chosen.recognizer) if chosen.recognizer else None,
        ClassifierFeatures(chosen.classifier) if chosen.classifier else None,
    )


def _one(chosen: Eval, subject: "ModelSubject", options: "Options", judges: "Judges", out: Path) -> int:
    from sensorium.evals.report import shown_baseline, shown_interval, shown_value, write_evaluation
    from sensorium.evals.results import save_results
    from sensorium.evals.suites import evaluate

    found = evaluate(
        subject, chosen.suite, chosen.data, out, options, judges=judges, overwrite=chosen.overwrite, bar=bar
    )
    figures, page = out / f"{chosen.suite}.json", out / f"{chosen.suite}.html"
    save_results(figures, found.results, found.about)
    write_evaluation(found, page)
    if chosen.json:
        return _print_json(figures)
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


def _several(chosen: Eval, subject: "ModelSubject", options: "Options", judges: "Judges", out: Path) -> int:
    from sensorium.evals.report import shown_baseline, shown_interval, shown_value
    from sensorium.evals.summary import run_selection, strongest, write_summary

    done = run_selection(
        subject,
        chosen.suite,
        chosen.data or (FULL_DATA if chosen.suite == "all" else ""),
        out,
        options,
        judges=judges,
        overwrite=chosen.overwrite,
        bar=bar,
    )
    figures, page = write_summary(done, out)
    if chosen.json:
        _print_json(figures)
        return _told(done)
    for name, found in done.evaluations.items():
        print(f"{name}: {found.about['cases']} samples of the split {found.about['split']}")
        for result in found.results:
            rival = strongest(result)
            beside = "" if rival is None else f"; {rival}: {shown_baseline(result, rival)}"
            value = f"{shown_value(result, result.value)} {shown_interval(result)}"
            print(f"  {result.metric}: {value}, n {result.n}{beside}")
        for note in found.about["notes"]:
            print(f"  note: {note}")
    for what, why in done.left_out.items():
        print(f"left out: {what}: {why}")
    print(f"{figures}\n{page}")
    return _told(done)


def _told(done: "Done") -> int:
    """The exit status; what could not be run is said on standard error, behind all figures."""
    num_asked = len(done.evaluations) + len(done.broken)
    for what in done.broken:
        print(f"could not be run: {what}: {done.left_out[what]}", file=sys.stderr)
    if done.broken:
        print(f"{len(done.broken)} of {num_asked} parts could not be run", file=sys.stderr)
    return 0 if done.evaluations else 1


def _print_json(path: Path) -> int:
    print(json.dumps(json.loads(path.read_text(encoding="utf-8")), ensure_ascii=False))
    return 0
