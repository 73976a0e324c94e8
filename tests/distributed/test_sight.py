"""What is written of many ranks is what is written of one, and what they send is what docs/scaling.md says."""

import json
from pathlib import Path

import pytest
from benchmarks.scaling import Work, step_bytes

from sensorium.train.metrics import read_metrics
from tests.distributed.conftest import Launch, run_module


def test_bytes_moved_are_those_of_the_formula(folder: Path) -> None:
    many = ("torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    done = run_module(*many, "-m", "tests.distributed.count", str(folder))
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    work = Work(
        trunk=found["trunk"],
        root=found["root"],
        matrices=found["matrices"],
        tokens=0,
        pairs=found["pairs"],
        samples=0,
        latent_dim=16,
        flops_per_token=0.0,
    )
    expected, counted = step_bytes(work, 2, 2), found["bytes"]
    # FSDP2 rounds the rows of each tensor up to a multiple of the ranks.
    assert counted["gather"] == pytest.approx(expected["gather parameters"], rel=0.01)
    assert counted["reduce"] == pytest.approx(expected["reduce gradients"], rel=0.01)
    assert counted["exchange"] == expected["exchange for Muon"]
    # Beside latents and their gradients there are the counts of the step, groups, and a few sums of one number.
    small = counted["rows"] + counted["sum"] - expected["alignment"]
    assert 0 <= small < 4096


def test_norms_and_amounts_of_two_ranks_are_those_of_one(folder: Path, launch: Launch) -> None:
    train = {"num_steps": 2, "log_every": 1, "optimizer": "muon"}
    lines = []
    for num_ranks in (1, 2):
        out = f"sight-{num_ranks}"
        done = launch(num_ranks, {"out": out, "train": train})
        assert done.returncode == 0, done.stderr
        lines.append(read_metrics(folder / out))
    same = [key for key in lines[0][0] if key.startswith(("grad_norm", "update_ratio"))]
    assert {"grad_norm/layers", "update_ratio/embed_tokens", "grad_norm/logit_scale"} <= set(same)
    for one, two in zip(*lines, strict=True):
        assert {key: two[key] for key in same} == pytest.approx({key: one[key] for key in same}, rel=1e-3)
        # Of a rank's own documents: all of them where there is one.
        assert any(key.startswith("text/") for key in two)
        # The same items went through, in some other time; a rank whose samples are all too large adds one token.
        assert two["images_per_s"] / two["tokens_per_s"] == pytest.approx(
            one["images_per_s"] / one["tokens_per_s"], rel=0.01
        )
        assert two["audio_s_per_s"] > 0
