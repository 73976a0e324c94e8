"""The quick start: what the model that ships can do, then 20 new pictures learned, tested on others before and after."""

import json
import shutil
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from sensorium.data.reader import Reader
from sensorium.data.writer import ShardWriter
from sensorium.evals.report import Report
from sensorium.finetuning import finetune
from sensorium.finetuning.figures import Quiz, make_quiz, quiz_of_rows
from sensorium.finetuning.plan import known_templates
from sensorium.generate.interface import Model, load
from sensorium.media.image import encode_png
from sensorium.quickstart.showing import show_all
from sensorium.starter import TEST_STYLE
from sensorium.train.metrics import plot_losses

NUM_NEW = 20
# Concepts of these splits are never trained on, in any style: those of the first serve for the test of concepts.
NEW_SPLITS = ("test", "validation")
# Split of the new data -> drawing style: what is learned from, what says when to stop, what is tested.
STYLES = {"train": "noto", "validation": "fluent", "test": TEST_STYLE}
TESTED = "new pictures named"
NUM_OLD = 100  # questions and pictures by which forgetting is seen
PICTURES, MODEL = "pictures", "model"


def run(
    out: Path = Path("quickstart"), model: str = "starter", *, overwrite: bool = False, **options: Any
) -> dict[str, Any]:
    """Show what a model can do, adapt it to new pictures, and report.

    Args:
        out: folder of the report; the new pictures are in ``out/pictures``, the adapted model in ``out/model``.
        model: as ``sm.load`` takes it.
        overwrite: replace an earlier quick start in ``out``.
        options: of ``finetuning.Options`` (tests train for fewer steps).

    Returns:
        What ``report.json`` holds.
    """
    for folder in (out / PICTURES, out / MODEL):
        if folder.exists():
            if not overwrite:
                raise FileExistsError(
                    f"{out} holds an earlier quick start; add --overwrite or choose another --out"
                )
            shutil.rmtree(folder)
    console, report = Console(highlight=False, soft_wrap=True), Report("Sensorium quick start")
    started = time.perf_counter()
    before = load(model)
    console.print(f"[bold]1/3 What the model can do[/bold]: {before!r}")
    num_parameters = sum(parameter.numel() for parameter in before.model.parameters())
    report.text(f"{num_parameters:,} parameters: {before!r}. Nothing shown here was picked by its answer.")
    shown = _show(before, console, report)
    show_s = time.perf_counter() - started
    if "image" not in before.config.model.modalities:
        raise ValueError(f"{model} does not see pictures, and the rest of the quick start is about them")

    console.print(
        f"\n[bold]2/3 Learning {NUM_NEW} new pictures[/bold]: things and names that it was never trained on"
    )
    write_new_pictures(out / PICTURES)
    started = time.perf_counter()
    result = finetune(
        model, out / PICTURES, out / MODEL, say=lambda text: console.print(text, markup=False), **options
    )
    train_s = time.perf_counter() - started

    console.print("\n[bold]3/3 Before and after[/bold]")
    after = load(out / MODEL)
    figures = measure(before, after, out / PICTURES)
    _tell(figures, console, report)
    _report_pictures(before, after, out / PICTURES, report)
    report.heading("Loss curves")
    report.plot(plot_losses(out / MODEL).read_bytes(), "losses over steps")
    report.write(out / "report.html")
    values = {
        "parameters": num_parameters,
        "show_seconds": round(show_s, 1),
        "train_seconds": round(train_s, 1),
        "steps": result.step,
        "kept_step": result.best_step,
        "shown": shown,
        "held_out_loss": result.loss,
        "figures": figures,
    }
    (out / "report.json").write_text(
        json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    console.print(
        f"\nShown in {show_s:.0f} s, learned in {train_s:.0f} s. Open [bold]{out / 'report.html'}[/bold] to see and hear it. "
        f"Next:\n"
        f"  sensorium finetune starter PHOTOS --out runs/mine      # the same with pictures of yours\n"
        f"  sensorium chat --model {out / MODEL}\n"
        f"  sensorium pretrain-demo                                # a small model from nothing, in four minutes"
    )
    return values


def write_new_pictures(out: Path) -> None:
    """Twenty concepts that no training has, each in three drawing styles: to learn, to know when to stop, to test."""
    rows = {
        style: {
            row["concept"]: row for split in NEW_SPLITS for row in Reader(f"starter:{style}", split).rows()
        }
        for style in STYLES.values()
    }
    concepts = [c for c in rows["noto"] if all(c in of_style for of_style in rows.values())][:NUM_NEW]
    with ShardWriter(out) as writer:
        new = [(split, style, concept) for split, style in STYLES.items() for concept in concepts]
        for ordinal, (split, style, concept) in enumerate(new):
            writer.write({**rows[style][concept], "split": split}, ordinal)


def measure(before: Model, after: Model, pictures: Path) -> dict[str, dict[str, Any]]:
    """Share right of both models, beside baselines: on the new pictures, and on what the model knew before."""
    quizzes: dict[str, Quiz | None] = {TESTED: make_quiz(str(pictures), {"embed": 1.0}, asked="test")}
    known = known_templates(before.config)
    if known & {"pair", "embed"}:
        old = list(Reader(f"starter:{TEST_STYLE}", "train").rows())[:: 460 // NUM_OLD][:NUM_OLD]
        learned = [row for style in ("noto", "fluent") for row in Reader(f"starter:{style}", "train").rows()]
        names = {row["text"] for row in old}
        quizzes["old pictures named"] = quiz_of_rows(
            [row for row in learned if row["text"] in names], old, {"embed": 1.0}
        )
    if "chat" in known:
        rows = list(Reader("starter:easy-vqa", "test").rows())
        quizzes["old questions answered"] = quiz_of_rows(
            list(Reader("starter:easy-vqa", "train").rows()),
            rows[:: len(rows) // NUM_OLD][:NUM_OLD],
            {"chat": 1.0},
        )
    return {
        name: {
            "before": quiz.score(before),
            "after": quiz.score(after),
            **quiz.baselines(),
            "asked": len(quiz.asked),
        }
        for name, quiz in quizzes.items()
        if quiz
    }


def _show(model: Model, console: Console, report: Report) -> dict[str, list[dict[str, Any]]]:
    """Every thing that the model can do, on the terminal and in the report; what it cannot is said."""
    shown: dict[str, list[dict[str, Any]]] = {}
    for what, cases, why_not in show_all(model):
        report.heading(what)
        if why_not:
            console.print(f"  {what}: left out, {why_not}", markup=False)
            report.text(f"Left out: {why_not}.")
            continue
        console.print(f"  {what}", markup=False)
        for case in cases:
            said = "; ".join(f"{line}: {text}" for line, text in case.lines)
            console.print(f"    {case.id}  {said}", markup=False)
        report.cases(cases)
        shown[what] = [{"id": case.id, **dict(case.lines)} for case in cases]
    return shown


def _tell(figures: dict[str, dict[str, Any]], console: Console, report: Report) -> None:
    header = ("test", "before", "after", "chance or majority", "nearest neighbour")
    rows = []
    for name, figure in figures.items():
        least = figure.get("chance", figure.get("majority", 0.0))
        neighbour = figure.get("nearest neighbour")
        shares = (figure["before"], figure["after"], least)
        rows.append(
            (
                f"{name} ({figure['asked']} asked)",
                *(f"{share:.1%}" for share in shares),
                "" if neighbour is None else f"{neighbour:.1%}",
            )
        )
    table = Table(*header)
    for row in rows:
        table.add_row(*row)
    console.print(table)
    about = (
        f"Learned: {NUM_NEW} new concepts, one picture of each (Noto); {NUM_NEW} others (Fluent) said when to stop. Tested on "
        f"{NUM_NEW} others in a style that was never trained on (OpenMoji): which of the {NUM_NEW} names lies nearest. The "
        "neighbour compares pixels with the pictures learned from. The other rows show what is forgotten."
    )
    console.print(about, markup=False)
    report.table("Before and after", header, rows)
    report.text(about)


def _report_pictures(before: Model, after: Model, pictures: Path, report: Report) -> None:
    """The tested pictures with the nearest of the new names, before and after."""
    quiz = make_quiz(str(pictures), {"embed": 1.0}, asked="test")
    assert quiz is not None
    names = {}
    for when, model in (("before", before), ("after", after)):
        nearest = (model.embed(list(quiz.parts)) @ model.embed(list(quiz.options)).T).argmax(axis=1)
        names[when] = [quiz.options[place] for place in nearest]
    report.heading("New pictures that were never trained on, and the nearest new name")
    report.pictures(
        (
            encode_png(part.pixels()),
            f"{example.answer}; before: {was}; after: {now}" + (" (right)" if now == example.answer else ""),
        )
        for part, example, was, now in zip(
            quiz.parts, quiz.asked, names["before"], names["after"], strict=True
        )
    )
