"""Pretraining in small: real data in, four minutes of training on two cores, figures before and after, a report."""

import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from sensorium import recipes
from sensorium.config import RunConfig
from sensorium.data.sample import Sample
from sensorium.evals.report import Report, spectrogram_png
from sensorium.evals.starter import StarterSuite, load_samples
from sensorium.generate.interface import Model
from sensorium.media.audio import denormalize_mel, encode_wav, griffin_lim
from sensorium.media.image import denormalize_image, encode_png
from sensorium.media.parts import Audio, Image
from sensorium.sequence.document import EmbSegment
from sensorium.train.metrics import plot_losses
from sensorium.train.trainer import Trainer

DRAWN = ("red apple", "cat face", "green heart", "sun", "fish", "rocket")
NAMES = {
    "picture_to_word": "picture -> word, unseen style",
    "word_to_picture": "word -> picture, unseen style",
    "sound_to_word": "sound -> word, training sounds",
}


def run(
    out: Path = Path("pretrain-demo"), config: RunConfig | None = None, *, overwrite: bool = False
) -> dict[str, Any]:
    """Train ``nano`` from nothing and report.

    Args:
        out: folder of the report; the model is in ``out/model``.
        config: another recipe (tests use a shorter one).
        overwrite: replace an earlier demo in ``out``.

    Returns:
        What ``report.json`` holds.
    """
    config = config or recipes.nano()
    console = Console()
    run_folder = out / "model"
    if run_folder.exists():
        if not overwrite:
            raise FileExistsError(f"{out} holds an earlier demo; add --overwrite or choose another --out")
        shutil.rmtree(run_folder)
    out.mkdir(parents=True, exist_ok=True)
    console.print(
        "[bold]1/4 The data[/bold]: real pictures, sounds, questions and words that ship with the package"
    )
    trainer = Trainer(config, run_folder)
    _show_data(console, trainer)
    console.print("\n[bold]2/4 Before training[/bold]: the same tests on random weights")
    suite = StarterSuite(config.model, num_questions=500)
    before = suite.run(Model(trainer.model.eval(), trainer.tokenizer, config))
    _show_figures(console, {"before": before})
    console.print(
        f"\n[bold]3/4 Training[/bold] {config.name}: {config.train.max_train_s:.0f} s at most on this machine"
    )
    started = time.perf_counter()
    trainer.train()
    train_seconds = time.perf_counter() - started
    console.print("\n[bold]4/4 After training[/bold]")
    model = Model.from_pretrained(run_folder / (run_folder / "last").read_text().strip())
    after = suite.run(model)
    _show_figures(console, {"before": before, "after": after})
    figures = {
        "train_seconds": round(train_seconds, 1),
        "steps": trainer.step,
        "parameters": sum(p.numel() for p in model.model.parameters()),
        **{name: {"before": before[name], "after": after[name]} for name in before},
    }
    _write_report(out, figures, suite, model, trainer)
    (out / "report.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    console.print(
        f"\nTrained for {train_seconds:.0f} s, {trainer.step} steps, {trainer.samples_seen:,} samples. Open "
        f"[bold]{out / 'report.html'}[/bold] to see and hear what it makes. Next:\n"
        f'  sensorium generate --model {run_folder} "cat face" --output image --out cat.png\n'
        f"  sensorium chat --model {run_folder}\n"
        f"  sensorium train tiny --out runs/tiny        # the same, larger and longer",
        highlight=False,
        soft_wrap=True,
    )
    return figures


def _show_data(console: Console, trainer: Trainer) -> None:
    table = Table("source", "samples", "share of a batch", "example")
    sources, stage = trainer.loader.sources, trainer.loader.stages[0]
    for number, share in zip(stage.numbers, stage.share, strict=True):
        source = sources[number]
        row = source.reader.row(0, 0)
        words = row["text"] or " ".join(
            p["text"] for m in row["messages"] for p in m["content"] if p["type"] == "text"
        )
        kinds = (
            "picture: "
            if row["image"] or row["images"]
            else "sound: "
            if row["audio"] or row["audios"]
            else ""
        )
        table.add_row(source.config.path, str(source.reader.num_rows), f"{share:.0%}", kinds + words[:50])
    console.print(table)


def _show_figures(console: Console, figures: dict[str, dict[str, Any]]) -> None:
    table = Table("test", *figures, "chance / majority", "baseline")
    last = list(figures.values())[-1]
    for key, name in NAMES.items():
        cells = [f"{f[key]['r1']:.1%}" for f in figures.values()]
        kind = "mel" if key == "sound_to_word" else "pixels"
        table.add_row(
            f"{name} (R@1)",
            *cells,
            f"{last[key]['chance']:.2%}",
            f"{last[key]['nearest_neighbour']:.1%} nearest in {kind}",
        )
    vqa = [f["vqa"] for f in figures.values()]
    table.add_row(
        "easy-vqa, test pictures",
        *(f"{v['accuracy']:.1%}" for v in vqa),
        f"{vqa[-1]['majority']:.1%}",
        f"{vqa[-1]['blind']:.1%} picture removed",
    )
    console.print(table)


def _png(array_CHW: np.ndarray) -> bytes:
    return encode_png(denormalize_image(array_CHW))


def _sound(array_1FM: np.ndarray, label: str) -> tuple[bytes, bytes, str]:
    return encode_wav(griffin_lim(denormalize_mel(array_1FM[0]))), spectrogram_png(array_1FM[0]), label


def _write_report(
    out: Path, figures: dict[str, Any], suite: StarterSuite, model: Model, trainer: Trainer
) -> None:
    report = Report("Sensorium: pretraining in four minutes")
    report.text(
        f"{figures['parameters']:,} parameters, {figures['steps']} steps in {figures['train_seconds']} s, from nothing. The "
        "drawing style of the retrieval test was never trained on; nearest neighbour compares its pixels with the training "
        "pictures. The sounds of the sound test are training sounds: it shows memory, and nearest neighbour finds the very "
        "same sound."
    )
    rows = [
        (
            name,
            f"{figures[key]['before']['r1']:.1%}",
            f"{figures[key]['after']['r1']:.1%}",
            f"{figures[key]['after']['chance']:.2%}",
            f"{figures[key]['after']['nearest_neighbour']:.1%}",
        )
        for key, name in NAMES.items()
    ]
    report.table("Retrieval, R@1", ("test", "before", "after", "chance", "nearest neighbour"), rows)
    vqa = figures["vqa"]
    cells = ("accuracy", "blind", "majority", "question_majority")
    report.table(
        "Questions on unseen pictures (easy-vqa)",
        (
            "",
            "with the picture",
            "picture removed",
            "most frequent answer",
            "most frequent answer to the question",
        ),
        [(when, *(f"{vqa[when][c]:.1%}" for c in cells)) for when in ("before", "after")],
    )
    report.heading("Loss curves")
    report.plot(plot_losses(trainer.run_folder).read_bytes(), "losses over steps")
    _report_names(report, suite, model)
    _report_generated(report, model)
    report.write(out / "report.html")


def _report_names(report: Report, suite: StarterSuite, model: Model) -> None:
    """Pictures of the unseen style with the nearest word and the generated caption, and questions answered."""
    shown = suite.pictures[:: max(1, len(suite.pictures) // 24)][:24]
    media = model.embed_segments([[s.media[0].segment(noisy=False), EmbSegment()] for s in shown])
    names = [s.text for s in suite.pictures]
    nearest = (media @ model.embed(names).T).argmax(axis=1)
    report.heading("Pictures in the unseen style: name, and nearest word")
    report.pictures(
        (_png(s.media[0].clean_CHW), f"{s.text}: {names[n]}" + (" (right)" if names[n] == s.text else ""))
        for s, n in zip(shown, nearest, strict=True)
    )
    report.heading("Questions")
    asked = suite.questions[:: max(1, len(suite.questions) // 12)][:12]
    report.pictures((_png(s.media[0].clean_CHW), _answered(s, model)) for s in asked)


def _answered(sample: Sample, model: Model) -> str:
    question = " ".join(p["text"] for p in sample.messages[0]["content"] if p["type"] == "text")
    truth = " ".join(p["text"] for p in sample.messages[1]["content"] if p["type"] == "text")
    parts: list[str | Image | Audio] = [Image(denormalize_image(sample.media[0].clean_CHW)), question]
    answer = model.generate(parts, max_tokens=12)
    return f"{question} {answer}" + ("" if answer == truth else f" (truth: {truth})")


def _report_generated(report: Report, model: Model) -> None:
    """Pictures and sounds from words, beside real ones of the training set."""
    real = load_samples("noto", "train", model.config.model)
    chosen = [s for s in real if s.text in DRAWN] + real[:: max(1, len(real) // 12)]
    prompts = list(dict.fromkeys(s.text for s in chosen))[:12]
    drawn = model.generate_many(prompts, "image")
    report.heading("Drawn from words")
    report.pictures(
        (encode_png(picture.pixels()), prompt) for prompt, picture in zip(prompts, drawn, strict=True)
    )
    sounds = load_samples("scratch", "train", model.config.model)
    short = [s for s in sounds if len(s.text) < 16]
    heard = short[:: max(1, len(short) // 4)][:4]
    made = _mels(model, [s.text for s in heard])
    report.heading("Sounds: real (through the same vocoder), then made from the word")
    for sample, mel in zip(heard, made, strict=True):
        report.sounds(
            [_sound(sample.media[0].clean_CHW, f"{sample.text}, real"), _sound(mel, f"{sample.text}, made")]
        )


def _mels(model: Model, prompts: list[str]) -> list[Any]:
    """Generated log-mels before the vocoder, to be drawn as well as heard."""
    answers = model.engine.generate([model.request(prompt, "audio") for prompt in prompts])
    return [answer.parts[0].array.numpy() for answer in answers]
