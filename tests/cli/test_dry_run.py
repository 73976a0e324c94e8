"""``sensorium train RECIPE --dry-run``: everything that is known before a run, and nothing left behind."""

import re
from pathlib import Path

import pytest

from tests.cli.conftest import TINY, Run, assert_mistake


@pytest.fixture
def tuned_again() -> None:
    """A dry run makes this process give memory back at once; what comes after it would be slow."""
    from sensorium.train.optimizer import tune_allocator

    yield  # type: ignore[misc]
    tune_allocator()


@pytest.mark.usefixtures("tuned_again")
def test_a_dry_run(here: Run, tmp_path: Path) -> None:
    words = ("--data", "starter:scratch=pair,align", "starter:noto=pair", "--train.num-microbatches", "2")
    done = here("train", "nano", "--dry-run", *TINY, *words)
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == []

    def figure(pattern: str) -> float:
        found = re.search(pattern + r"\s+([\d.,]+)", done.stdout, flags=re.M)
        assert found, f"{pattern} is not in {done.stdout}"
        return float(found[1].replace(",", ""))

    parts = [
        int(number.replace(",", ""))
        for number in re.findall(r"^  [a-z_.]+ +([\d,]+)$", done.stdout, flags=re.M)
    ]
    assert sum(parts) == figure("^parameters")
    terms = ("weights", "gradients that exist then", "optimiser state", "moving average of the weights")
    rest = ("tokens and media of the batch", "activations and temporaries")
    assert sum(figure(f"  {term}") for term in (*terms, *rest)) == pytest.approx(figure("  peak"), abs=0.4)
    assert figure("measured") > 1
    for fragment in (
        "FLOPs of one token",
        "2 micro-batches",
        "image, seen: ",
        "<emb>",
        "predicts",
        "losses of the second",
    ):
        assert fragment in done.stdout, fragment


def test_what_does_not_fit_is_not_tried(here: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from sensorium.commands import dry_run

    monkeypatch.setattr(dry_run, "available_bytes", lambda device: 1000)
    monkeypatch.setattr(dry_run, "measure_step", None)
    done = here("train", "nano", "--dry-run", *TINY, "--data", "starter:noto")
    assert done.returncode == 1
    assert "no real step" in done.stdout
    assert "train.num_microbatches" in done.stdout


def test_mistakes(here: Run) -> None:
    assert_mistake(here("train", "--dry-run"), "no recipe is named")
