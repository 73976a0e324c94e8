"""docs/evaluation.md is true: its commands run, its options and functions exist, its code works."""

import importlib
import json
import re
import shlex
from pathlib import Path

import pytest

from sensorium.cli import main
from sensorium.evals.suites import SUITES
from sensorium.evals.summary import SELECTIONS
from tests.evals.rows import png

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "evaluation.md").read_text(encoding="utf-8")


def code(language: str) -> list[str]:
    return [b for name, b in re.findall(r"^```(\w*)\n(.*?)^```", PAGE, flags=re.S | re.M) if name == language]


COMMANDS = [line for block in code("") for line in block.splitlines() if line.startswith("sensorium ")]


@pytest.mark.slow
@pytest.mark.parametrize("line", COMMANDS)
def test_the_commands_run(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = shlex.split(line)[1:]
    assert main(words) == 0
    shown = capsys.readouterr().out
    suite = words[words.index("--suite") + 1]
    num_pages = len(list((tmp_path / "evaluation").glob("*.html")))
    assert num_pages == (9 if suite == "starter" else 1)
    figures = json.loads((tmp_path / "evaluation" / f"{suite}.json").read_text(encoding="utf-8"))
    assert (tmp_path / "evaluation" / f"{suite}.html").stat().st_size > 10_000
    if "--json" in words:
        assert json.loads(shown) == figures
    if suite == "vqa":
        # The output on the page: the same lines, and the very figures of the baselines, which need no floats.
        wanted = code("text")[0].splitlines()
        assert [re.sub(r"[-+]?[\d.]+", "#", x) for x in shown.splitlines()[: len(wanted)]] == [
            re.sub(r"[-+]?[\d.]+", "#", x) for x in wanted
        ]
        of_baselines = {x.split("  ")[1] for x in wanted if "majority" in x or "chance" in x}
        assert of_baselines <= {x.split("  ")[1] for x in shown.splitlines() if x.startswith("  ")}


def test_every_suite_has_a_command_and_a_row() -> None:
    shown = {shlex.split(line)[shlex.split(line).index("--suite") + 1] for line in COMMANDS}
    # The data of the others do not ship.
    assert shown == {*SUITES, "starter"} - {"edit", "video", "medical", "code"}
    assert set(re.findall(r"^\| `(\w+)` \|", PAGE, flags=re.M)) == {*SUITES, *SELECTIONS}


def test_every_option_and_function_exists(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["eval", "--help"])
    known = capsys.readouterr().out
    for option in {*re.findall(r"`(--[a-z-]+)", PAGE), *re.findall(r" (--[a-z-]+)", "\n".join(COMMANDS))}:
        assert re.search(rf"{option}\b", known), option
    named = re.findall(
        r"`(answers|captions|speech|retrieval|generated|latency|drawing|calibration|regions)\.(\w+)`", PAGE
    )
    assert len(named) > 12
    for module, function in named:
        assert callable(getattr(importlib.import_module(f"sensorium.evals.metrics.{module}"), function))


def test_the_python_examples_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, colour in (("cat", "grey"), ("dog", "red")):
        (tmp_path / f"{name}.png").write_bytes(png(colour))
    for block in code("python"):
        exec(block, {"CAT": png("grey")})
    first, second = capsys.readouterr().out.splitlines()
    assert "Interval(" in first
    assert second.endswith("False")
    assert "kitten (1)" in (tmp_path / "evaluation" / "vqa.html").read_text(encoding="utf-8")
