"""The quick start through its own door, with what it must show."""

import dataclasses
import json
import shutil
import subprocess
from pathlib import Path

import pytest

from sensorium.config import RunConfig, SourceConfig, load_config, save_config
from sensorium.data.reader import Reader
from sensorium.evals.report import Report
from sensorium.generate.interface import load
from sensorium.mixtures import FULL_SOURCES, STARTER_SOURCES
from sensorium.quickstart import NUM_NEW, STYLES, run, write_new_pictures
from sensorium.quickstart.showing import SHOWN, show_all
from tests.cli.conftest import COMMAND
from tests.cli.conftest import model_folder as model_folder


@pytest.mark.slow
def test_the_quick_start_shows_its_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With half of its steps."""
    out = tmp_path / "quickstart"
    run(out, num_steps=50, max_train_s=0.0)
    said = json.loads((out / "report.json").read_text(encoding="utf-8"))
    print(json.dumps(said))
    new = said["figures"]["new pictures named"]
    assert new["asked"] == NUM_NEW
    assert new["chance"] == pytest.approx(1 / NUM_NEW)
    assert new["after"] >= new["before"] + 0.1
    assert new["after"] >= 3 * new["chance"]
    assert said["held_out_loss"]["after"] < said["held_out_loss"]["before"]
    # What it knew before is not gone.
    for name in ("old pictures named", "old questions answered"):
        assert said["figures"][name]["after"] >= 0.6 * said["figures"][name]["before"], name
    page = (out / "report.html").read_text(encoding="utf-8")
    assert page.count("data:image/png") > NUM_NEW
    assert "sensorium finetune" in capsys.readouterr().out
    load(out / "model")


def test_the_new_pictures_are_new(tmp_path: Path) -> None:
    """No source that the recipes train on has one of their concepts, and no picture is used twice."""
    write_new_pictures(tmp_path / "new")
    rows = {split: list(Reader(str(tmp_path / "new"), split).rows()) for split in STYLES}
    concepts = {split: [row["concept"] for row in of_split] for split, of_split in rows.items()}
    assert concepts["train"] == concepts["validation"] == concepts["test"]
    assert len(set(concepts["train"])) == NUM_NEW
    assert len({row["image"]["bytes"] for of_split in rows.values() for row in of_split}) == 3 * NUM_NEW
    for source in STARTER_SOURCES:
        trained = {row["concept"] for row in Reader(source.path, source.split).rows() if row["concept"]}
        assert not trained & set(concepts["train"]), source.path


def copy_with(folder: Path, out: Path, sources: tuple[SourceConfig, ...]) -> Path:
    """A model that says of itself that it was trained on these sources."""
    shutil.copytree(folder, out)
    config = load_config(RunConfig, out / "config.json")
    data = dataclasses.replace(config.data, sources=sources)
    save_config(dataclasses.replace(config, data=data), out / "config.json")
    return out


def test_what_a_model_was_trained_on_is_shown(model_folder: Path, tmp_path: Path) -> None:
    model = load(copy_with(model_folder, tmp_path / "model", FULL_SOURCES))
    shown = {what: cases for what, cases, _ in show_all(model)}
    assert list(shown) == [what for what, *_ in SHOWN]
    assert all(shown.values())
    languages = {
        what for case in shown["Pictures in a style never trained on, named"] for what, _ in case.lines
    }
    assert {"German", "Russian"} <= languages
    (found,) = shown["A spoken word, and the picture nearest to it"]
    assert len(found.media) == 2  # a voice and a picture
    report = Report("all")
    for cases in shown.values():
        report.cases(cases)
    report.write(tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text().count("data:audio/wav") >= 4
    assert ":</h3>" not in (tmp_path / "report.html").read_text()  # a case without a score is named alone


def test_what_a_model_was_not_trained_on_is_left_out_with_a_line(model_folder: Path, tmp_path: Path) -> None:
    nothing = load(copy_with(model_folder, tmp_path / "model", ()))
    assert all(not cases and "not trained" in why for _, cases, why in show_all(nothing))
    model = nothing.config.model
    deaf = dataclasses.replace(model, modalities={"image": model.modalities["image"]})
    nothing.config = dataclasses.replace(nothing.config, model=deaf)
    why_not = {what: why for what, _, why in show_all(nothing)}
    assert why_not["Words spoken"] == "the model has no audio"


def test_an_earlier_quick_start_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "quick" / "model").mkdir(parents=True)
    done = subprocess.run(
        [str(COMMAND), "quickstart", "--out", str(tmp_path / "quick")], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "--overwrite" in done.stderr
