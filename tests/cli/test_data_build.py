"""`sensorium data build` as a user types it."""

import json
from pathlib import Path

from sensorium.starter.builder.full.driver import build_source, write_root
from tests.cli.conftest import Run, assert_mistake


def test_help_has_examples(command: Run) -> None:
    done = command("data", "build", "--help")
    assert done.returncode == 0
    assert "sensorium data build starter --out data/starter" in done.stdout


def test_mistakes_are_told_in_one_sentence(command: Run, tmp_path: Path) -> None:
    assert_mistake(command("data", "build"), "cannot build nothing", "data build starter")
    assert_mistake(command("data", "build", "stater"), "'stater'", "data build starter")
    assert_mistake(command("data", "build", "starter", "icons"), "--only icons")
    assert_mistake(command("data", "build", "starter", "--only", "cats"), "unknown source 'cats'", "tabler")
    assert_mistake(command("data", "build", "starter", "--only", "lucide", "cats"), "unknown source 'cats'")
    assert_mistake(command("data", "build", "starter", "--jobs", "0"), "--jobs 1")
    assert_mistake(command("data", "build", "starter", "--verify", "--out", "nowhere"), "no manifest")


def test_all_that_is_missing_is_named_before_anything_starts(command: Run, tmp_path: Path) -> None:
    done = command(
        # What is kept from an earlier build need not be fetched: it would ask for no client.
        *("data", "build", "starter", "--only", "synthetic-speech,lucide", "--out", "out", "--cache", "none"),
        environment={"PATH": str(tmp_path)},
    )
    assert_mistake(done, "apt-get install espeak-ng", "apt-get install flite", "apt-get install npm")
    assert not (tmp_path / "out").exists()


def test_a_changed_file_is_found(command: Run, tmp_path: Path) -> None:
    from tests.starter.test_full_generated import SOURCES

    entry = build_source(SOURCES[0], tmp_path / "out", tmp_path, lambda event: None)
    write_root(tmp_path / "out", {"made": entry})
    done = command("data", "build", "starter", "--out", "out", "--verify", "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["num_rows"] == 150
    (tmp_path / "out" / "made" / "LICENSE.txt").write_text("none")
    done = command("data", "build", "starter", "--out", "out", "--verify")
    assert done.returncode == 1
    assert "LICENSE.txt" in done.stdout
