"""`sensorium data show` and the table of verbs, through the command line."""

import ast
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sensorium.cli import main
from sensorium.commands.data import VERBS


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = main(["data", *words])
    out, err = capsys.readouterr()
    return code, out, err


def test_a_question_as_the_model_sees_it(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "show", "starter:easy-vqa", "3", "--json")
    shown = json.loads(out)
    (document,) = shown["documents"]
    spans = document["spans"]
    assert (code, shown["template"], document["num_positions"]) == (0, "chat", 28)
    assert spans[0]["what"] == "image 4x4 patches, context"
    assert (spans[0]["first_position"], spans[0]["last_position"]) == ([0, 0, 0], [0, 3, 3])
    assert "".join(ast.literal_eval(s["what"]) for s in spans[1:10]) == "is there a blue shape in the image?"
    assert [(s["what"], s["predicts"]) for s in spans[10:]] == [
        ("<assistant>", "'no'"),
        ("'no'", "<eos>"),
        ("<eos>", ""),
    ]
    assert sum(bool(s["predicts"]) for s in spans) == document["num_predicted_tokens"] == 2


def test_the_table_and_the_picture(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "show.png"
    code, out, _ = run(capsys, "show", "starter:noto", "3", "--out", str(path))
    assert code == 0
    assert "document 2 of 2 by template 'pair'" in out
    assert "image 4x4 patches" in out
    assert "the clean patches" in out
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
    assert pixels.std() > 40
    assert ((pixels[..., 0] > 180) & (pixels[..., 1] < 80)).sum() > 50  # the red marks of what is predicted


def test_by_id_by_template_and_by_a_users_template(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    first = json.loads(run(capsys, "show", "starter:noto", "0", "--json")[1])
    again = json.loads(run(capsys, "show", "starter:noto", first["id"], "--json")[1])
    assert again == first
    mine = tmp_path / "mine.json"
    mine.write_text(json.dumps({"shout": {"documents": ["{media}!<assistant>{text!}<eos!>"]}}))
    code, out, _ = run(
        capsys, "show", "starter:noto", "0", "--template", "shout", "--templates", str(mine), "--json"
    )
    assert code == 0
    assert json.loads(out)["documents"][0]["spans"][1]["what"] == "'!'"


def test_what_does_not_fit_is_said(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    from sensorium.data.writer import ShardWriter

    about = {"split": "test", "source": "long", "license": "CC0-1.0", "attribution": "nobody"}
    with ShardWriter(tmp_path / "long") as writer:
        writer.write({"id": "long", "text": "words " * 400, **about}, 0)
    code, out, _ = run(capsys, "show", str(tmp_path / "long"), "0", "--split", "test")
    assert code == 0
    assert "do not fit into a row of 128" in out


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (("show", "starter:noto"), "give a path and which sample"),
        (("show", "starter:noto", "9999"), "has no sample '9999' in split 'train'; it has"),
        (("show", "starter:noto", "0", "--template", "pear"), "unknown template 'pear'"),
        (
            ("show", "starter:noto", "0", "--template", "transcribe", "--recipe", "nani"),
            "unknown recipe 'nani'",
        ),
        (("show", "starter:scratch", "0", "--template", "code"), "needs image, the sample has audio"),
        (("show", "starter:noto", "0", "--out", "a.jpg"), "ends in .png"),
        (
            ("show", "starter:asterisk-en", "asterisk-en/agent-newlocation"),
            "lasts 3.14 s, the model takes 2.56 s; training with this recipe leaves the sample out",
        ),
        (("show", "nowhere", "0"), "no Parquet data at nowhere"),
        (("shwo",), "unknown verb 'shwo'; the nearest is 'show'"),
    ],
)
def test_mistakes_are_one_sentence(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...], match: str
) -> None:
    code, out, err = run(capsys, *words)
    assert code == 2
    assert out == ""
    assert match in err
    assert err.count("\n") == 1


def test_every_verb_has_help_with_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "--help")[0] == 0
    for verb in VERBS:
        with pytest.raises(SystemExit) as stop:
            main(["data", verb, "--help"])
        assert not stop.value.code
        assert f"sensorium data {verb}" in capsys.readouterr().out
