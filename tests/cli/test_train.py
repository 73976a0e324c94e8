"""``sensorium train``: a short run on the starter data, its samples, resuming it, interrupting it."""

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.cli.conftest import COMMAND, ENVIRONMENT, TINY, Run, assert_mistake, run_command, split_metrics

SIX_STEPS = (*TINY, "--train.num-steps", "6", "--train.save-every", "3", "--train.sample-every", "3")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    folder = tmp_path_factory.mktemp("train")
    done = run_command("train", "nano", "--out", "run", *SIX_STEPS, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "run", done


Trained = tuple[Path, subprocess.CompletedProcess[str]]


def test_it_says_what_it_does(trained: Trained) -> None:
    _, done = trained
    for fragment in (
        "nano -> run",
        "parameters, 32 wide, 1 layers",
        "starter:noto",
        "6 steps",
        "run/step-000006",
    ):
        assert fragment in done.stdout
    last = done.stderr.strip().splitlines()[-1]
    for fragment in ("step 6/6", "text", "flow_image", "align", "lr", "norm", "tok/s", "wait", "ETA"):
        assert fragment in last


def test_it_writes_the_resolved_configuration(trained: Trained) -> None:
    resolved = json.loads((trained[0] / "resolved.json").read_text())
    assert (resolved["model"]["dim"], resolved["train"]["num_steps"]) == (32, 6)
    assert resolved == json.loads((trained[0] / "step-000006" / "config.json").read_text())


def test_it_writes_metrics(trained: Trained) -> None:
    assert [line["step"] for line in split_metrics(trained[0])] == [1, 2, 3, 4, 5, 6]
    assert (trained[0] / "metrics.csv").is_file()
    assert (trained[0] / "loss.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("step", [3, 6])
def test_it_writes_samples(trained: Trained, step: int) -> None:
    from sensorium.media.parts import Audio, Image

    folder = trained[0] / "samples" / f"step-{step:06d}"
    text = (folder / "samples.txt").read_text()
    assert [line.split(" ")[0] for line in text.splitlines()] == [
        "step",
        "caption",
        "picture",
        "answer",
        "sound",
    ]
    picture = Image(folder / "picture.png").pixels()
    # The model chooses the size: whole patches, at most four each way.
    assert all(side in (8, 16, 24, 32) for side in picture.shape[:2])
    assert len(Audio(folder / "sound.wav").waveform()) > 0
    assert b"generated" in (folder / "picture.png").read_bytes()


def test_fixed_prompts_stay_the_same(trained: Trained) -> None:
    """Only the answers change from one set of samples to the next."""
    files = [trained[0] / "samples" / f"step-00000{n}" / "samples.txt" for n in (3, 6)]
    asked = [[line.partition(": ")[0] for line in file.read_text().splitlines()[1:]] for file in files]
    assert asked[0] == asked[1]


def test_resuming_gives_the_same_losses(trained: Trained, tmp_path: Path) -> None:
    """A run that was killed after its checkpoint at step 3 ends as the one that was not."""
    copy = shutil.copytree(trained[0], tmp_path / "run")
    shutil.rmtree(copy / "step-000006")
    (copy / "last").write_text("step-000003\n")
    done = run_command("train", "--resume", "--out", copy)
    assert done.returncode == 0, done.stderr
    assert "from step 3" in done.stdout
    assert split_metrics(copy) == split_metrics(trained[0])
    mine, theirs = ((run / "step-000006" / "model.safetensors").read_bytes() for run in (copy, trained[0]))
    assert mine == theirs


def test_what_cannot_be_resumed(trained: Trained, here: Run) -> None:
    run = str(trained[0])
    assert_mistake(here("train", "nano", "--out", run, *SIX_STEPS), "step-000006", "--resume")
    done = here("train", "--resume", "--out", run)
    assert_mistake(done, "finished", "--train.num-steps")
    assert_mistake(here("train", "--resume"), "--out")
    assert_mistake(here("train", "--resume", "--out", "none"), "no checkpoint", "leave --resume out")


def test_a_changed_key_is_named(trained: Trained) -> None:
    from sensorium import recipes
    from sensorium.commands.train import main

    run = str(trained[0])
    with pytest.raises(ValueError, match=r"train\.lr is 0\.5 here and \S+ in the run"):
        main(["--resume", "--out", run, "--train.lr", "0.5"])
    with pytest.raises(ValueError, match=r"is of the recipe nano, and tiny is named here"):
        main(["tiny", "--resume", "--out", run])
    with pytest.raises(ValueError, match=r"data\.sources"):
        main(["--resume", "--out", run, "--data", "starter:noto"])
    # The recipe's own budget is not asked for, so it does not count as a change: only the finished run does.
    assert recipes.get("nano").train.num_steps != 6
    with pytest.raises(ValueError, match="is finished: step 6 of 6"):
        main(["nano", "--resume", "--out", run])


def test_a_restart_never_changes_a_run(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    """Started again by ``torchrun``, with other options than the run in that folder."""
    from sensorium.commands.train import main

    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    with pytest.raises(ValueError, match="a run resumes with its own configuration"):
        main(["nano", "--out", str(trained[0]), "--train.lr", "0.5"])


def test_sigterm_for_the_whole_group_saves(tmp_path: Path) -> None:
    """As a service manager stops a run: its data workers are told too, and must not end it before its save."""
    run = tmp_path / "run"
    line = [str(COMMAND), "train", "nano-debug", "--out", str(run), "--train.num-steps", "100000"]
    process = subprocess.Popen(
        [*line, "--data.num-workers", "2", "--train.save-every", "2", "--train.keep-checkpoints", "1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    while not (run / "last").is_file() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 143, err
    assert "Traceback" not in err
    assert f"sensorium train --resume --out {run}" in out
    with pytest.raises(ProcessLookupError):  # nobody of the group is left
        os.killpg(process.pid, 0)


@pytest.mark.parametrize(("kind", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_quietly_and_resumed_with_another_budget(
    kind: signal.Signals, code: int, here: Run, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    line = [str(COMMAND), "train", "nano", "--out", str(run), *TINY, "--train.num-steps", "100000"]
    line += ["--data", "starter:scratch=pair,align", "starter:sonic-pi"]
    process = subprocess.Popen(
        [*line, "--train.save-every", "2"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    )
    deadline = time.monotonic() + 60
    while not (run / "last").is_file() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(kind)
    out, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert "Traceback" not in err
    assert f"sensorium train --resume --out {run}" in out
    (found,) = json.loads(here("runs", run, "--json").stdout)["runs"]
    assert found["state"] == "stopped"
    steps = int((run / "last").read_text().strip().removeprefix("step-"))
    done = here("train", "nano", "--resume", "--out", run, "--train.num-steps", str(steps + 1))
    assert done.returncode == 0, done.stderr
    assert (run / f"step-{steps + 1:06d}").is_dir()
    assert [int(line["step"]) for line in split_metrics(run)] == list(range(1, steps + 2))


def test_a_run_starts_from_a_narrower_one(trained: Trained, here: Run) -> None:
    wide = (
        "--model.dim",
        "64",
        "--model.mlp-dim",
        "128",
        "--train.num-steps",
        "2",
        "--train.save-every",
        "1",
    )
    start = ("--warm-start", str(trained[0]))
    done = here("train", "nano", "--out", "wide", *TINY, *start, *wide)
    assert done.returncode == 0, done.stderr
    assert "64 wide" in done.stdout
    assert f"from {trained[0] / 'step-000006'}" in done.stdout
    assert here("train", "--resume", "--out", "wide", "--train.num-steps", "3").returncode == 0
    assert_mistake(here("train", "nano", "--out", "other", "--warm-start", "none"), "no model folder at none")
    assert_mistake(
        here("train", "nano", "--out", "other", *TINY, *start, "--model.dim", "96"), "model.dim is 32"
    )
    assert_mistake(here("train", "--resume", "--out", "wide", *start), "leave --warm-start out")
    assert_mistake(here("train", "nano", "--dry-run", *start), "leave --warm-start out")
