"""Fine-tuning through the user's door: the command, the function, and what is left in the folder."""

import json
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import sensorium as sm
from sensorium.data.reader import Reader
from sensorium.data.writer import ShardWriter
from sensorium.finetuning import resume
from sensorium.finetuning.figures import quiz_of_rows
from sensorium.model.heads import is_head
from sensorium.train import trainer as training
from sensorium.train.metrics import read_metrics
from sensorium.train.trainer import Trainer
from tests.cli.conftest import Run, assert_mistake
from tests.cli.conftest import here as here
from tests.finetune.conftest import COLOURS, QUICK


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def same(a: Path, b: Path) -> bool:
    ours, theirs = weights(a), weights(b)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_twelve_pictures_are_learned(here: Run, model_folder: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    done = here(
        *("finetune", model_folder, f"{photos}=pair,embed", "--out", out),
        *("--steps", "40", "--lr", "3e-3", "--replay", "0", "--held-out", "0.5", "--seconds", "0"),
    )
    assert done.returncode == 0, done.stderr
    assert "6 rows, never trained on: 50% of the rows, drawn by seed 0" in done.stdout
    said = json.loads((out / "finetune.json").read_text())
    assert said["loss"]["after"] < said["loss"]["before"]
    assert said["share"]["before"] < 0.7
    assert said["share"]["after"] == 1.0
    assert said["share"]["chance"] == pytest.approx(1 / 3)
    # The folder is a model, and it is the one of the figures.
    names = sorted(COLOURS)
    model = sm.load(out)
    held = list(Reader(str(out / "rows"), "validation").rows())
    nearest = (model.embed([sm.Image(r["image"]["bytes"]) for r in held]) @ model.embed(names).T).argmax(
        axis=1
    )
    assert [names[n] for n in nearest] == [r["text"] for r in held]
    assert not same(out, model_folder)
    done = here("generate", next(photos.rglob("*.png")), "--model", out, "--max-tokens", "4")
    assert done.returncode == 0, done.stderr


def test_a_text_is_learned_as_its_loss_tells(model_folder: Path, tmp_path: Path) -> None:
    table = tmp_path / "lines.jsonl"
    table.write_text("".join(json.dumps({"text": f"the answer is {n}"}) + "\n" for n in range(10)))
    result = sm.finetune(model_folder, table, tmp_path / "run", num_steps=20, lr=3e-3, **QUICK)
    assert result.loss["after"] < 0.8 * result.loss["before"]
    assert (result.task, result.share) == ("", {})


def test_sounds_are_learned_and_what_is_broken_is_left_out(model_folder: Path, tmp_path: Path) -> None:
    """Some of the sounds are longer than the model takes."""
    result = sm.finetune(model_folder, "starter:scratch", tmp_path / "run", num_steps=2, **QUICK)
    assert result.task == "right name among 102, 8 held-out rows"
    shards = tmp_path / "shards"
    rows = list(Reader("starter:scratch", "train").rows())[:6]
    with ShardWriter(shards) as writer:
        for number, row in enumerate(rows):
            split = "validation" if number > 3 else "train"
            audio = {"bytes": b"no sound", "path": None} if number == 5 else row["audio"]
            writer.write({**row, "split": split, "audio": audio}, number)
    result = sm.finetune(model_folder, shards, tmp_path / "other", num_steps=2, **QUICK)
    assert result.task == "right name among 5, 1 held-out rows"


def test_heads_alone(model_folder: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    options = {**QUICK, "templates": {"embed": 1.0, "pair": 1.0}}
    sm.finetune(model_folder, photos, out, train="heads", num_steps=10, lr=3e-3, **options)
    before, after = weights(model_folder), weights(out)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all(is_head(name) for name in changed)
    assert any(name.startswith("latent_proj") for name in changed)


def test_stopped_and_resumed_is_as_never_stopped(
    here: Run, model_folder: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("--steps", "25", "--seconds", "0", "--seed", "3", "--replay", "0.3")
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert here("finetune", model_folder, photos, "--out", whole, *options).returncode == 0
    step = Trainer.train_step

    def killed(self: Trainer, batches: Sequence[Any]) -> dict[str, Any]:
        if self.step == 13:
            signal.raise_signal(signal.SIGTERM)
        return step(self, batches)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_step", killed)
        done = here("finetune", model_folder, photos, "--out", cut, *options)
    assert done.returncode == 128 + signal.SIGTERM
    assert f"go on with: sensorium finetune --resume --out {cut}" in done.stdout
    sm.load(cut)  # what was the best by then
    done = here("finetune", "--resume", "--out", cut)
    assert done.returncode == 0, done.stderr
    assert same(whole, cut)
    losses = [[line.get("val_loss") for line in read_metrics(run)] for run in (whole, cut)]
    assert losses[0] == losses[1]
    done = here("finetune", "--resume", "--out", cut)
    assert_mistake(done, "is finished at step 25")


def test_it_ends_when_held_out_losses_no_longer_fall_and_keeps_the_best(
    model_folder: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = iter([5.0, 4.0, 3.0, 3.5, 3.4, 9.0])
    monkeypatch.setattr(training, "evaluate", lambda *_: {"val_loss": torch.tensor(next(found))})
    out = tmp_path / "run"
    result = sm.finetune(model_folder, photos, out, eval_every=2, patience=2, num_steps=50, **QUICK)
    assert (result.step, result.best_step, result.is_early) == (8, 4, True)
    assert result.loss == {"before": 5.0, "after": 3.0}
    assert same(out, out / "step-000004")
    assert not same(out, out / "step-000008")
    with pytest.raises(ValueError, match="is finished at step 8"):
        resume(out)


def test_a_model_that_nothing_helps_stays_as_it_was(
    model_folder: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = iter([1.0, 2.0, 3.0])
    monkeypatch.setattr(training, "evaluate", lambda *_: {"val_loss": torch.tensor(next(found))})
    said: list[str] = []
    options = {**QUICK, "say": said.append}
    result = sm.finetune(model_folder, photos, tmp_path / "run", eval_every=2, num_steps=4, **options)
    assert result.best_step == 0
    assert same(tmp_path / "run", model_folder)
    assert "the model as it was" in said[-1]


def test_questions_are_asked_before_and_after() -> None:
    def rows(split: str) -> list[dict[str, Any]]:
        return list(Reader("starter:easy-vqa", split).rows())[:40]

    quiz = quiz_of_rows(rows("train"), rows("test"), {"chat": 1.0})
    assert quiz is not None
    truths = [example.answer for example in quiz.asked]

    class Knows:
        def __init__(self, answers: list[str]) -> None:
            self.answers = answers

        def generate_many(self, prompts: list[Any], **_: Any) -> list[str]:
            assert [prompt[1] for prompt in prompts] == [example.question for example in quiz.asked]
            return self.answers

    assert quiz.score(Knows([f"{truth.upper()}." for truth in truths])) == 1.0  # type: ignore[arg-type]
    share = quiz.score(Knows(["yes"] * len(truths)))  # type: ignore[arg-type]
    assert share == pytest.approx(np.mean([truth == "yes" for truth in truths]))
    assert set(quiz.baselines()) == {"majority", "nearest neighbour"}


@pytest.mark.parametrize(
    ("data", "options", "said"),
    [
        ("empty", (), "holds no files"),
        ("missing", (), "no such file or folder to import; check the path"),
        ("bare", (), "no row has words to learn"),
        ("broken", (), "no sample can be used"),
        ("one", (), "1 different sample: nothing is left to hold out"),
        ("{photos}=nothing", (), "unknown template 'nothing'"),
        ("{photos}=mine", ("--templates", "mine.json"), "slot {colour} is unknown"),
        ("{photos}=dumb", ("--templates", "mine.json"), "the template dumb has nothing to learn"),
        (
            "{photos}=caption",
            ("--train", "heads"),
            "--train heads has nothing to learn from the template caption",
        ),
        ("{photos}", ("--replay", "1"), "replay is 1.0; expected a share from 0 to below 1"),
        ("starter:openmoji2", (), "unknown starter source 'openmoji2'"),
    ],
)
def test_mistakes_are_one_sentence_and_leave_nothing(
    here: Run,
    model_folder: Path,
    photos: Path,
    tmp_path: Path,
    data: str,
    options: tuple[str, ...],
    said: str,
) -> None:
    picture = next(photos.rglob("*.png")).read_bytes()
    for name, path in {"bare": "1.png", "one": "poppy/1.png"}.items():
        (tmp_path / name / path).parent.mkdir(parents=True)
        (tmp_path / name / path).write_bytes(picture)
    (tmp_path / "bare" / "2.png").write_bytes(picture + b"2")
    (tmp_path / "broken" / "mug").mkdir(parents=True)
    (tmp_path / "broken" / "mug" / "1.jpg").write_text("no picture")
    (tmp_path / "empty").mkdir()
    own = {"mine": {"documents": ["{media}{colour!}"]}, "dumb": {"documents": ["{media}{text}"]}}
    (tmp_path / "mine.json").write_text(json.dumps(own))
    done = here("finetune", model_folder, data.format(photos=photos), "--out", "out/run", *options)
    assert_mistake(done, said)
    assert not (tmp_path / "out" / "run").exists()  # the same command can be given again, mended


def test_mistakes_in_the_words(here: Run, model_folder: Path, photos: Path, tmp_path: Path) -> None:
    assert_mistake(here("finetune", model_folder, photos), "--out is missing")
    assert_mistake(
        here("finetune", photos, "--out", "run"), "a model and data are needed, and 1 words are given"
    )
    assert_mistake(here("finetune", "--resume", "--out", "run"), "run holds no checkpoint of a fine-tuning")
    assert_mistake(here("finetune", "--resume", "--out", "run", "--lr", "1"), "leave out lr")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine").touch()
    assert_mistake(here("finetune", model_folder, photos, "--out", "run"), "run is there already")
    with pytest.raises(ValueError, match="unknown option 'learning_rate'"):
        sm.finetune(model_folder, photos, tmp_path / "other", learning_rate=1)
