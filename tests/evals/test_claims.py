"""The claims as experiments: equal FLOPs, stopped runs that go on, intervals, and the command itself."""

import argparse
import dataclasses
import json
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benchmarks.claims import __main__ as command
from benchmarks.claims import report, settings, variants
from benchmarks.claims.train import FLOPS, BudgetedTrainer, fingerprint
from scipy import stats

from sensorium import recipes
from sensorium.config import RunConfig
from sensorium.data.loader import Loader
from sensorium.data.reader import Reader
from sensorium.model.flops import StepFlops
from sensorium.train.metrics import read_metrics

ROOT = Path(__file__).parents[2]


@pytest.fixture
def start(tmp_path: Path) -> settings.Setting:
    """The smallest shape with the fewest samples in a step."""
    found = settings.setting("micro", tmp_path / "nothing", tmp_path / "data")
    config = settings.with_sources(found.config, found.config.data.sources, samples_per_step=12)
    config = settings.with_train(config, save_every=2, log_every=0)
    return dataclasses.replace(found, config=config)


def flops_of_steps(config: RunConfig, num_steps: int, tokenizer: Any) -> list[float]:
    """Counted on the batches, beside any trainer."""
    loader, flops = Loader(config.data, config.model, tokenizer, config.train.seed), StepFlops(config.model)
    return [flops(loader.batch(step)) for step in range(num_steps)]


def test_a_run_ends_with_the_step_that_uses_up_its_flops(start: settings.Setting, tmp_path: Path) -> None:
    trainer = BudgetedTrainer(start.config, tmp_path / "run", 1.0)
    steps = flops_of_steps(start.config, 5, trainer.tokenizer)
    trainer.budget = sum(steps[:3]) + 0.5 * steps[3]
    trainer.train()
    assert trainer.step == 4
    assert trainer.flops == pytest.approx(sum(steps[:4]))
    rates = [line["lr"] for line in read_metrics(tmp_path / "run")]
    assert rates[-1] < rates[1]  # the schedule has come to its end by FLOPs


def test_a_stopped_run_goes_on_with_the_flops_it_had(
    start: settings.Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = BudgetedTrainer(start.config, tmp_path / "whole", 1.0)
    whole.budget = sum(flops_of_steps(start.config, 5, whole.tokenizer)) - 1
    whole.train()
    stopped = BudgetedTrainer(start.config, tmp_path / "stopped", whole.budget)
    step = stopped.train_step

    def dies(batches: Any) -> Any:
        if stopped.step == 3:
            raise RuntimeError("killed")
        return step(batches)

    monkeypatch.setattr(stopped, "train_step", dies)
    with pytest.raises(RuntimeError, match="killed"):
        stopped.train()
    again = BudgetedTrainer(start.config, tmp_path / "stopped", whole.budget)
    assert again.step == 2
    again.train()
    found = [
        [(line["loss"], line[FLOPS]) for line in read_metrics(tmp_path / n)] for n in ("whole", "stopped")
    ]
    assert found[0] == found[1]
    assert len(found[0]) == 5


def test_parts_apart_share_what_the_joint_model_has(start: settings.Setting) -> None:
    found = variants.joint(start, 2.0)
    groups: dict[str, list[variants.Variant]] = {}
    for variant in found:
        groups.setdefault(variant.group or variant.name, []).append(variant)
    assert {name: len(members) for name, members in groups.items()} == {
        "joint": 1,
        "apart, same sum": len(settings.PARTS),
        "apart, all for each": len(settings.PARTS),
    }
    assert sum(variant.tflop for variant in groups["apart, same sum"]) == pytest.approx(2.0)
    assert {variant.tflop for variant in groups["apart, all for each"]} == {2.0}
    joint = {source.path for source in groups["joint"][0].config.data.sources}
    for group in ("apart, same sum", "apart, all for each"):
        parts = [source.path for variant in groups[group] for source in variant.config.data.sources]
        assert sorted(parts) == sorted(joint)


def test_less_data_is_a_part_of_more(start: settings.Setting) -> None:
    ids = []
    for variant in variants.data(start, 1.0):
        sources = variant.config.data.sources
        ids.append({row["id"] for source in sources for row in Reader(source.path, "train").rows()})
        assert variant.x == len(ids[-1])
    assert ids[0] < ids[1] < ids[2]
    assert len(ids[0]) == pytest.approx(0.1 * len(ids[2]), rel=0.01)
    assert len(ids[1]) == pytest.approx(0.3 * len(ids[2]), rel=0.01)


def test_what_changes_a_run_changes_its_name(start: settings.Setting) -> None:
    base = fingerprint(start.config, 1.0, ("losses",))
    assert base == fingerprint(start.config, 1.0, ("losses",))
    others = [
        fingerprint(settings.with_train(start.config, seed=1), 1.0, ("losses",)),
        fingerprint(settings.with_model(start.config, target="v"), 1.0, ("losses",)),
        fingerprint(start.config, 2.0, ("losses",)),
        fingerprint(start.config, 1.0, ("losses", "pictures")),
    ]
    assert len({base, *others}) == 5


def test_the_interval_is_that_of_the_paired_test() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 5))
    found = report.paired(dict(enumerate(a)), {9: 1.0, **dict(enumerate(b))})
    assert found is not None
    low, high = stats.ttest_rel(a, b).confidence_interval(0.95)
    assert (found.mean, found.low, found.high) == pytest.approx(((a - b).mean(), low, high))
    assert found.num_seeds == 5


def test_one_seed_has_no_interval() -> None:
    found = report.paired({0: 2.0}, {0: 1.0, 1: 5.0})
    assert found is not None
    assert found.mean == 1
    assert math.isnan(found.low)
    assert not found.excludes_zero
    assert report.paired({0: 2.0}, {1: 1.0}) is None


def line(variant: str, seed: int, figures: dict[str, float], **more: Any) -> dict[str, Any]:
    return {"variant": variant, "group": "", "x": None, "seed": seed, "figures": figures, **more}


def test_exponents_are_those_of_the_law() -> None:
    laws = {0: -0.5, 1: -0.3, 2: -0.4}
    lines = [line(f"{x}", s, {"loss": 3 * x**b}, x=float(x)) for s, b in laws.items() for x in (10, 30, 100)]
    found = report.exponents(lines, "loss")
    assert found is not None
    assert found.mean == pytest.approx(-0.4)
    assert found.low < -0.5 < found.high
    # A seed that lacks a variant is left out.
    assert report.exponents([*lines, line("10", 3, {"loss": 1.0}, x=10.0)], "loss") == found


def test_the_parts_of_one_system_stand_in_one_column() -> None:
    lines = [
        line("joint", 0, {"pictures: text": 2.0, "hearing: text": 3.0}),
        line("apart, pictures", 0, {"pictures: text": 1.0, "hearing: text": 9.0}, group="apart"),
        line("apart, speech", 0, {"pictures: text": 9.0, "hearing: text": 4.0}, group="apart"),
    ]
    assert report.columns(lines)["apart"] == {"pictures: text": {0: 1.0}, "hearing: text": {0: 4.0}}
    shown = report.table(lines[::-1], "joint")
    assert shown.startswith("| figure | joint | apart |")
    assert "-1, one seed" in shown
    assert "+1, one seed" in shown


def test_two_points_make_no_law() -> None:
    assert report.exponents([line(f"{x}", 0, {"loss": 1.0 / x}, x=float(x)) for x in (1, 2)], "loss") is None


def test_no_exponent_over_what_may_be_negative() -> None:
    lines = [line(f"{x}", 0, {"loss": 1.0}, x=float(x)) for x in (-1, 1, 2)]
    assert report.exponents(lines, "loss") is None


def test_equal_runs_are_trained_once_and_what_is_done_is_not_done_again(
    start: settings.Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = []

    def results(order: list[str], waiting: dict[str, command.Job], options: Any) -> Iterator[Any]:
        for mark in order:
            trained.append(waiting[mark].name)
            yield mark, waiting[mark], {"steps": 1, "train_s": 1.0, "figures": {}}

    monkeypatch.setattr(command, "_results", results)
    options = argparse.Namespace(out=tmp_path)
    jobs = [
        command.Job(claim, variant, seed)
        for seed in range(2)
        for claim, own in (("target", variants.target(start, 3.0)), ("noise", variants.noise(start, 3.0)))
        for variant in own
    ]
    command._train(jobs[:2], options)
    assert trained == ["target-target_x-0", "target-target_v-0"]
    command._train(jobs, options)
    # "noise_mu -0.8" is "target x".
    noisy = [f"noise-noise_mu_{mu}" for mu in ("-1.2", "0", "0.8")]
    first, second = ([f"{name}-{seed}" for name in noisy] for seed in (0, 1))
    assert trained[2:] == [*first, "target-target_x-1", "target-target_v-1", *second]
    lines = [json.loads(text) for text in (tmp_path / "runs.jsonl").read_text().splitlines()]
    asked = {(job.claim, job.variant.name, job.seed) for job in jobs}
    assert {(x["claim"], x["variant"], x["seed"]) for x in lines} == asked
    assert len(lines) == len(asked)


@pytest.mark.slow
def test_the_command_trains_measures_and_reports(tmp_path: Path) -> None:
    def run(*arguments: str) -> str:
        words = [
            sys.executable,
            "-m",
            "benchmarks.claims",
            "--out",
            str(tmp_path),
            "--shape",
            "micro",
            "--quick",
        ]
        done = subprocess.run(
            [*words, "--seeds", "1", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=900
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    first = run("--claims", "target", "--jobs", "2")
    assert first.count(" steps, ") == 2
    assert "| figure | target x | target v |" in first
    lines = [json.loads(text) for text in (tmp_path / "runs.jsonl").read_text().splitlines()]
    assert [x["variant"] for x in lines].count("target v") == 1
    assert all(0.02 <= x["tflop"] < 0.05 and x["figures"]["image: x error"] > 0 for x in lines)
    assert (tmp_path / "claims-target.png").read_bytes().startswith(b"\x89PNG")
    assert not list((tmp_path / "jobs").glob("*/"))  # no checkpoint is left
    again = run("--claims", "target,bridge", "--data", str(tmp_path / "missing"))
    assert " steps, " not in again
    assert "bridge: not run" in again


def test_an_unknown_claim_is_named() -> None:
    words = [sys.executable, "-m", "benchmarks.claims", "--claims", "jiont"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "unknown claim 'jiont'; known are joint, rate, align" in done.stderr


@pytest.mark.parametrize("name", ["nano", "tiny"])
def test_a_size_of_a_recipe_s_name_is_that_recipe_s(name: str) -> None:
    """So that the recipe itself stands among the sizes that are compared, and is trained once."""
    assert settings.resized(recipes.get(name), name) == recipes.get(name)
