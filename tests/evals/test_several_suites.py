"""``sensorium eval --suite starter`` and ``all``: one table, what is left out by name, killed and gone on with."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pytest

from sensorium.data.shards import write_shard
from sensorium.evals.results import Result, load_results
from sensorium.evals.summary import SELECTIONS, strongest
from tests.cli.conftest import assert_mistake
from tests.evals.rows import Ear, Seer, clip_rows, code_rows, edit_rows, question_rows, region_rows

Here = Callable[..., CompletedProcess[str]]
SHORT = (
    *("--limit", "2", "--num-resamples", "20", "--max-tokens", "2", "--num-steps", "2", "--batch-size", "2"),
)


@pytest.mark.slow
def test_starter_runs_on_what_ships(here: Here, model_folder: Path, tmp_path: Path) -> None:
    line = ("eval", model_folder, "--suite", "starter", *SHORT)
    done = here(*line)
    assert done.returncode == 0, done.stderr
    embedded = {"easy-vqa", "openmoji", "scratch", "asterisk-en", "asterisk-fr", "noto"}
    names = [part.name for part in SELECTIONS["starter"] if part.source in embedded]
    assert [m[1] for m in re.finditer(r"^(\S+): 2 samples of the split", done.stdout, re.M)] == names
    left_out = ["edit on edits", "video on fluent-animated", "medical on brain", "code on lucide"]
    assert [
        m[1] for m in re.finditer(r"^left out: (.*?): there are no data; `sens", done.stdout, re.M)
    ] == left_out
    out = tmp_path / "evaluation"
    figures = json.loads((out / "starter.json").read_text())
    assert list(figures["about"]["parts"]) == names
    assert list(figures["about"]["left_out"]) == left_out
    page = (out / "starter.html").read_text()
    assert all(f'href="{name}.html"' in page and (out / f"{name}.html").is_file() for name in names)
    assert "all figures" in page.lower()
    again = here(*line, "--out", "other", "--json")
    assert json.loads(again.stdout) == figures  # the same figures twice
    assert (tmp_path / "other" / "starter.html").read_text() == page


@pytest.mark.slow
def test_all_takes_what_is_there(
    here: Here, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What the test of starter runs is left to it.
    parts = tuple(part for part in SELECTIONS["all"] if part.suite not in ("retrieval", "asr"))
    monkeypatch.setitem(SELECTIONS, "all", parts)
    full = tmp_path / "full"
    for name, rows in {
        "edits": edit_rows("test", 4),
        "fluent-animated": [*clip_rows("train"), *clip_rows("test", 3)],
        "brain": [*region_rows("train"), *region_rows("test", 4)],
        "lucide": [*code_rows("train"), *code_rows("test", 3)],
    }.items():
        (full / name).mkdir(parents=True)
        write_shard(full / name / "data.parquet", rows)
    done = here("eval", model_folder, "--suite", "all", "--data", "full", *SHORT, "--json")
    assert done.returncode == 0, done.stderr
    about = json.loads(done.stdout)["about"]
    done_parts = about["parts"]
    assert {"edit-edits", "video-fluent-animated", "medical-brain", "code-lucide", "vqa-easy-vqa"} <= {
        *done_parts
    }
    assert done_parts["medical-brain"]["data"] == "full/brain"
    assert done_parts["vqa-easy-vqa"]["data"] == "starter:easy-vqa"
    assert len(done_parts) + len(about["left_out"]) == len(parts)
    assert {"code on tabler", "tts on synthetic-speech", "edit on edits-openmoji"} <= {*about["left_out"]}


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="kills a process")
def test_a_process_that_is_killed_loses_nothing(model_folder: Path, tmp_path: Path) -> None:
    line = [sys.executable, "-m", "sensorium.cli", "eval", str(model_folder), "--suite", "image"]
    line += [
        "--data",
        "starter:noto",
        "--limit",
        "12",
        "--num-steps",
        "4",
        "--batch-size",
        "1",
        "--num-resamples",
        "20",
    ]

    def run(out: str, *, kill: bool = False) -> bytes:
        process = subprocess.Popen([*line, "--out", out], cwd=tmp_path, stdout=subprocess.DEVNULL)
        answers = tmp_path / out / "image.answers.jsonl"
        while (
            kill
            and process.poll() is None
            and not (answers.exists() and answers.read_bytes().count(b"\n") > 5)
        ):
            time.sleep(0.02)
        if kill:
            process.send_signal(signal.SIGKILL)
        assert process.wait(timeout=120) == (-signal.SIGKILL if kill else 0)
        return b"" if kill else (tmp_path / out / "image.json").read_bytes()

    run("killed", kill=True)
    kept = (tmp_path / "killed" / "image.answers.jsonl").read_bytes()
    assert run("killed") == run("whole")
    whole = (tmp_path / "whole" / "image.answers.jsonl").read_bytes()
    assert (tmp_path / "killed" / "image.answers.jsonl").read_bytes() == whole
    assert whole.startswith(kept[: kept.rfind(b"\n") + 1])


def test_a_broken_part_does_not_end_the_others(
    here: Here, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, bad = (tmp_path / "full" / name for name in ("lucide", "tabler"))
    for folder in (good, bad):
        folder.mkdir(parents=True)
        write_shard(folder / "data.parquet", code_rows("test", 2))
    parts = tuple(part for part in SELECTIONS["all"] if part.suite == "code")
    monkeypatch.setitem(SELECTIONS, "all", parts[::-1])  # the broken one first
    (bad / "data.parquet").write_bytes(b"PAR1 no more")
    line = ("eval", model_folder, "--suite", "all", "--data", "full", *SHORT)
    done = here(*line)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^code-lucide: 2 samples", done.stdout, re.M)
    assert re.search(r"^left out: code on tabler: .*data\.parquet", done.stdout, re.M)
    assert done.stderr.splitlines()[-2].startswith("could not be run: code on tabler: ")
    assert done.stderr.splitlines()[-1] == "1 of 2 parts could not be run"
    figures = json.loads((tmp_path / "evaluation" / "all.json").read_text())
    assert list(figures["about"]["parts"]) == ["code-lucide"]
    assert "1 of 2 parts could not be run" in (tmp_path / "evaluation" / "all.html").read_text()
    (good / "data.parquet").write_bytes(b"PAR1 no more")
    nothing = here(*line, "--json")
    assert nothing.returncode == 1
    assert "2 of 2 parts could not be run" in nothing.stderr
    assert [*json.loads(nothing.stdout)["about"]["left_out"]] == ["code on tabler", "code on lucide"]


def test_speech_needs_jiwer_only_where_somebody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    from sensorium.evals import summary
    from sensorium.evals.judges import Judges

    monkeypatch.setattr(summary.importlib.util, "find_spec", lambda name: None)
    speech = {part.suite: part for part in SELECTIONS["starter"] if part.suite in ("asr", "tts")}
    assert summary._lacking(speech["tts"], Seer(), Judges()) == ""
    assert "need jiwer" in summary._lacking(speech["tts"], Seer(), Judges(recognizer=Ear()))
    assert "need jiwer" in summary._lacking(speech["asr"], Seer(), Judges())


@pytest.mark.skipif(os.name != "posix", reason="locks files as POSIX does")
def test_two_evaluations_do_not_write_one_journal(here: Here, model_folder: Path, tmp_path: Path) -> None:
    """A lock of another process is refused; it goes with that process, and answers stay."""
    write_shard(tmp_path / "questions.parquet", question_rows("test", 4))
    line = ("eval", model_folder, "--suite", "vqa", "--data", "questions.parquet", *SHORT[:6])
    assert here(*line).returncode == 0
    journal = tmp_path / "evaluation" / "vqa.answers.jsonl"
    before = journal.read_bytes()
    holding = "import fcntl, sys, time; f = open(sys.argv[1]) if sys.argv[2] == 'f' else None; import os; "
    holding += "h = f.fileno() if f else os.open(sys.argv[1], os.O_RDONLY); "
    holding += "fcntl.flock(h, fcntl.LOCK_EX); print('held', flush=True); time.sleep(60)"
    both = ("eval", model_folder, "--suite", "starter", *SHORT)
    for path, kind, asked in ((journal, "f", line), (tmp_path / "evaluation", "d", both)):
        other = subprocess.Popen(
            [sys.executable, "-c", holding, str(path), kind], stdout=subprocess.PIPE, text=True
        )
        try:
            assert other.stdout is not None
            assert other.stdout.readline() == "held\n"
            for more in ((), ("--overwrite",)):
                assert_mistake(
                    here(*asked, *more), f"evaluation{'/vqa.answers.jsonl' if kind == 'f' else ''} is being"
                )
            assert journal.read_bytes() == before
        finally:
            other.kill()
            other.wait()
            assert other.stdout is not None
            other.stdout.close()
    assert here(*line).returncode == 0
    assert journal.read_bytes() == before


def test_the_strongest_rival_is_neither_a_ceiling_nor_a_control() -> None:
    about = {"task": "t", "metric": "m", "n": 3, "seed": 0, "prompt": "", "split": "test", "normalizer": ""}
    baselines = {
        "ceiling: real": 0.9,
        "control: shuffled": 0.8,
        "chance": 0.1,
        "blind": 0.3,
        "odd": float("nan"),
    }
    up = Result(**about, value=0.2, model="a", baselines=baselines)  # type: ignore[arg-type]
    down = Result(**about, value=0.2, model="a", baselines=baselines, higher_is_better=False)  # type: ignore[arg-type]
    assert (strongest(up), strongest(down)) == ("blind", "chance")
    assert strongest(Result(**about, value=0.2, model="a", baselines={"ceiling: x": 1.0})) is None  # type: ignore[arg-type]


def test_features_of_a_public_classifier(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    from sensorium.evals.judges import ClassifierFeatures
    from sensorium.media.parts import Image

    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=3
    )
    transformers.ResNetForImageClassification(config).save_pretrained(tmp_path)
    about = {"image_processor_type": "ViTImageProcessor", "size": {"height": 32, "width": 32}}
    about |= {
        "do_resize": True,
        "do_rescale": True,
        "do_normalize": True,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    }
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(about))
    features = ClassifierFeatures(tmp_path)
    pictures = [Image(np.full((20, 30, 3), value, np.uint8)) for value in (0, 128, 255)]
    together = features(pictures)
    assert together.shape == (3, 16)
    assert together.dtype == np.float32
    assert np.allclose(together[1], features(pictures[1:2])[0], atol=1e-5)
    assert not np.allclose(together[0], together[2])
    (tmp_path / "config.json").write_text('{"model_type": "nobody"}')
    with pytest.raises(ValueError, match="no image classifier of transformers"):
        ClassifierFeatures(tmp_path)


def test_results_of_whole_sets_are_read_again(tmp_path: Path) -> None:
    from sensorium.evals.results import save_results

    about = {"task": "t", "metric": "m", "n": 3, "seed": 0, "prompt": "", "split": "test", "normalizer": ""}
    result = Result(**about, value=0.5, model="a", baselines={"noise": 1.0})  # type: ignore[arg-type]
    save_results(tmp_path / "x.json", [result], {})
    assert load_results(tmp_path / "x.json") == [result]
