"""One process, two ranks, ranks with accumulation, and other numbers of ranks after a checkpoint: the same losses."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from sensorium.pretrained import read_tensors
from sensorium.train.metrics import read_metrics
from tests.distributed.conftest import Launch

Lines = list[dict[str, Any]]
STOPPED: dict[str, Any] = {"out": "stopped", "train": {"optimizer": "muon", "num_steps": 12}, "how": "stop"}

SPELLERS: dict[str, Any] = {"trained": "spellers", "optimizer": "muon", "num_steps": 8}


def losses(run: Path) -> Lines:
    return [{k: v for k, v in line.items() if k.startswith("loss")} for line in read_metrics(run)]


def assert_same(ours: Lines, theirs: Lines, *, rel: float) -> None:
    assert len(ours) == len(theirs)
    for step, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        assert a.keys() == b.keys()
        for name in a:
            assert a[name] == pytest.approx(b[name], rel=rel, abs=rel), f"step {step + 1}: {name}"


@pytest.fixture(scope="session")
def one(folder: Path, launch: Launch) -> Path:
    """Runs of one process: the plain one, one in two micro-batches, one by Muon, one that recomputes."""
    done = launch(
        1,
        {"out": "one/plain"},
        {"out": "one/parts", "train": {"num_microbatches": 2}},
        {"out": "one/sigmoid", "align_loss": "sigmoid", "train": {"num_steps": 8}},
        {"out": "one/muon", "train": {"optimizer": "muon", "num_steps": 12}},
        {"out": "one/spellers", "train": SPELLERS},
        {"out": "one/recomputed", "train": {"activation_checkpointing": True}},
    )
    assert done.returncode == 0, done.stderr
    return folder / "one"


@pytest.fixture(scope="session")
def two(folder: Path, launch: Launch) -> Path:
    """The same on two ranks, sharded; and one that is stopped by a signal to one of its ranks."""
    done = launch(
        2,
        {"out": "two/plain"},
        {"out": "two/parts", "train": {"num_microbatches": 2}},
        {"out": "two/sigmoid", "align_loss": "sigmoid", "train": {"num_steps": 8, "num_microbatches": 2}},
        {"out": "two/muon", "train": {"optimizer": "muon", "num_steps": 12}},
        {"out": "two/spellers", "train": SPELLERS},
        {
            "out": "two/half",
            "train": {"precision": "bfloat16", "num_steps": 4, "activation_checkpointing": True},
        },
        STOPPED,
    )
    assert done.returncode == 0, done.stderr
    # Both print at once, and one may write before the other's line ends.
    assert all(f"rank {rank} ended by signal 15 at step 6" in done.stdout for rank in (0, 1))
    return folder / "two"


@pytest.mark.slow
def test_one_process_equals_two_ranks_equals_two_ranks_with_accumulation(one: Path, two: Path) -> None:
    """Over 20 steps of pictures, sounds, words, edits and speech, where the last rank has only words."""
    plain = losses(one / "plain")
    assert len(plain) == 20
    for other in (one / "parts", two / "plain", two / "parts", one / "recomputed"):
        assert_same(losses(other), plain, rel=1e-5)
    assert all(line["loss_align"] and line["loss_flow_image"] for line in plain)
    kinds = [(two / "plain" / f"kinds-{rank}.txt").read_text().splitlines() for rank in (0, 1)]
    assert set(kinds[1]) == {"text"}
    assert all("image" in line and "pairs" in line for line in kinds[0])
    assert sum("source" in line for line in kinds[0]) > 10
    assert sum("spelled" in line for line in kinds[0]) > 10


@pytest.mark.slow
def test_the_sigmoid_loss_too(one: Path, two: Path) -> None:
    assert_same(losses(two / "sigmoid"), losses(one / "sigmoid"), rel=1e-5)


@pytest.mark.slow
def test_other_data_give_other_losses(one: Path) -> None:
    """Or the comparisons above would prove nothing: a change of one part in a thousand is seen."""
    plain, muon = losses(one / "plain"), losses(one / "muon")
    with pytest.raises(AssertionError):
        assert_same(plain[:12], muon, rel=1e-3)


@pytest.mark.slow
def test_sharded_weights_are_the_whole_ones(one: Path, two: Path) -> None:
    """Averaged weights after 20 steps, gathered from two ranks."""
    ours, theirs = (read_tensors(run / "plain" / "step-000020" / "model.safetensors") for run in (two, one))
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        torch.testing.assert_close(
            tensor, theirs[name], rtol=1e-3, atol=1e-4, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.slow
def test_muon_on_ranks_that_own_whole_matrices(one: Path, two: Path) -> None:
    """Its iteration is computed in bfloat16, which makes last digits of a gradient into more."""
    assert_same(losses(two / "muon"), losses(one / "muon"), rel=2e-3)


@pytest.mark.slow
def test_spellers_without_the_trunk(one: Path, two: Path) -> None:
    """All that is trained has a gradient on both ranks."""
    ours, theirs = losses(two / "spellers"), losses(one / "spellers")
    assert_same(ours, theirs, rel=2e-3)
    assert ours[-1]["loss_spell_audio"] < 0.95 * ours[0]["loss_spell_audio"]


@pytest.mark.slow
def test_half_precision_is_near(one: Path, two: Path) -> None:
    """Same schedule at step 1 only, where no step has been taken."""
    assert_same(losses(two / "half")[:1], losses(one / "plain")[:1], rel=0.05)
    assert all(line["loss"] == pytest.approx(line["loss"]) for line in losses(two / "half"))


@pytest.mark.slow
@pytest.mark.parametrize("num_ranks", [1, 3])
def test_a_checkpoint_of_two_ranks_resumes_on(
    num_ranks: int, folder: Path, launch: Launch, one: Path, two: Path
) -> None:
    """Half the run on two ranks, then the rest: as on one process all along."""
    files = {path.name for path in (folder / "stopped" / "step-000006").iterdir()}
    shards = {f"training-0000{n}-of-00002.safetensors" for n in (1, 2)}
    assert files == {"config.json", "model.safetensors", "tokenizer.json", "training.json", *shards}
    shutil.copytree(folder / "stopped", folder / f"resumed-{num_ranks}")
    run = {**STOPPED, "out": f"resumed-{num_ranks}", "how": "", "resume": True}
    done = launch(num_ranks, run)
    assert done.returncode == 0, done.stderr
    resumed = losses(folder / f"resumed-{num_ranks}")
    assert len(resumed) == 12
    assert_same(resumed[:6], losses(two / "muon")[:6], rel=1e-6)
    assert_same(resumed, losses(one / "muon"), rel=2e-3)


@pytest.mark.slow
def test_copies_of_shards(folder: Path, launch: Launch, one: Path) -> None:
    """Four ranks, each two of which hold one copy of the parameters; the matrices of Muon too."""
    done = launch(
        4,
        {"out": "copies", "train": {"optimizer": "muon", "num_steps": 12, "shard_size": 2}},
        # The refiner's last bias has three rows: one of four ranks holds none.
        {"out": "few-rows", "train": {"num_steps": 2, "save_every": 1, "decay": 0.0}},
        {"out": "few-rows", "train": {"num_steps": 3, "decay": 0.0}, "resume": True},
    )
    assert done.returncode == 0, done.stderr
    assert_same(losses(folder / "copies"), losses(one / "muon"), rel=2e-3)
    assert len(losses(folder / "few-rows")) == 3


@pytest.mark.slow
def test_a_lost_worker_restarts_all_and_nothing_changes(folder: Path, launch: Launch, two: Path) -> None:
    """``kill -9`` of one rank in the seventh step: ``torchrun`` starts all again, which go on from step 4."""
    run = {"out": "lost", "train": {"save_every": 4}, "how": "kill"}
    # More than one: on a crowded machine Gloo's ranks may miss each other when they start again.
    done = launch(2, run, options=("--max-restarts", "3"))
    assert done.returncode == 0, done.stderr
    kinds = (folder / "lost" / "kinds-1.txt").read_text().splitlines()
    assert len(kinds) == 6 + 16  # steps 5 and 6 twice
    lines = read_metrics(folder / "lost")
    assert [line["step"] for line in lines] == list(range(1, 21))
    assert_same(losses(folder / "lost"), losses(two / "plain"), rel=1e-6)
