"""`sensorium data check` and `sensorium data stats` as a user runs them."""

import json
import signal
import subprocess
import time
from pathlib import Path

import pytest

from sensorium.commands.data.inputs import bar
from sensorium.starter import DATA_DIR
from tests.cli.conftest import COMMAND, ENVIRONMENT, assert_mistake
from tests.data.bad_samples import bad_rows, good_row, write_raw

BAD = ("png_truncated", "wav_nan", "more_placeholders", "id_empty", "blank")


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    path = tmp_path / "bad.parquet"
    rows = bad_rows()
    write_raw(path, [rows[name] for name in BAD] + [good_row("good", text="a red car")])
    return path


def test_clean_data(command):
    done = command("data", "check", "starter:scratch", "--recipe", "tiny")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("108 samples in 1 files: 108 sounds\n")
    assert "no errors" in done.stdout


def test_bad_data(command, bad, tmp_path):
    done = command("data", "check", bad, "--report", "out.html", "--near-distance", "-1")
    assert done.returncode == 1
    assert "bad/png_truncated: png_truncated.png: is a damaged or truncated PNG picture" in done.stdout
    assert "to do: fetch or export the file again, or drop the row" in done.stdout
    assert "row 3 of bad.parquet: column 'id' is empty" in done.stdout
    assert "\n4 errors, 1 warnings, 0 notes\n" in done.stdout
    page = (tmp_path / "out.html").read_text(encoding="utf-8")
    assert "bad/more_placeholders" in page


def test_bad_data_as_json(command, bad):
    done = command("data", "check", bad, "--json")
    assert done.returncode == 1
    values = json.loads(done.stdout)
    assert values["ok"] is False
    assert values["num_errors"] == 4
    assert values["counts"] == {
        "schema": 1,
        "placeholders": 1,
        "medium_damaged": 1,
        "medium_values": 1,
        "blank": 1,
    }
    finding = next(f for f in values["findings"] if f["kind"] == "medium_values")
    assert finding["id"] == "bad/wav_nan"
    assert finding["severity"] == "error"
    assert (finding["file"], finding["row"]) == ("bad.parquet", 1)
    assert "holds NaN or infinite samples" in finding["reason"]


def test_two_paths_that_share_a_sample(command, tmp_path):
    write_raw(tmp_path / "a.parquet", [good_row("x", text="a red car")])
    write_raw(tmp_path / "b.parquet", [good_row("x", text="a blue car", split="test")])
    done = command("data", "check", "a.parquet", "b.parquet")
    assert done.returncode == 1
    assert "x: the same id as row 0 of a.parquet ('x')" in done.stdout


def test_stats(here):
    done = here("data", "stats", "starter:sonic-pi=transcribe", "--recipe", "tiny")
    assert done.returncode == 0, done.stderr
    assert "transcribe   100% of visits" in done.stdout
    assert "packed into" in done.stdout
    values = json.loads(here("data", "stats", "starter:sonic-pi", "--json").stdout)
    assert {entry["template"] for entry in values["epoch"]["templates"]} == {"pair", "align"}
    assert values["epoch"]["packed"]["used"] > 0.5
    assert sum(values["histograms"]["audio_duration"]["counts"]) == 55


@pytest.mark.parametrize("verb", ["check", "stats"])
def test_mistakes_of_both(here, verb, bad):
    assert_mistake(here("data", verb), "no data are named")
    assert_mistake(here("data", verb, "nowhere"), "no Parquet data at nowhere")
    assert_mistake(here("data", verb, "starter:nonsense"), "unknown starter source 'nonsense'")
    assert_mistake(here("data", verb, bad, "--recipe", "nanno"), "unknown recipe 'nanno'", "'nano'")
    assert_mistake(here("data", verb, f"{bad}=pear"), "unknown template 'pear'")
    assert_mistake(here("data", verb, bad, bad), "a file is named twice")


def test_mistakes(here, bad, tmp_path):
    assert_mistake(here("data", "check", bad, "--near-distance", "9"), "give 0 to 7 bits, or -1")
    assert_mistake(here("data", "check", bad, "--report", "no/where.html"), "no such folder")
    assert_mistake(here("data", "stats", bad, "--split", "dev"), "--split 'dev' is not one of")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1")
    assert_mistake(here("data", "stats", "broken.parquet"), "broken.parquet", "sensorium data check")


def test_ctrl_c(tmp_path):
    """While sounds are decoded: their library calls back into Python, and exceptions get lost there."""
    sounds = [str(path) for path in sorted(DATA_DIR.glob("asterisk-*"))]
    running = subprocess.Popen(
        [
            str(COMMAND),
            "data",
            "check",
            *sounds,
            *map(str, DATA_DIR.glob("easy-vqa")),
            "--report",
            "out.html",
        ],
        cwd=tmp_path,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    time.sleep(4)
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=30)
    assert running.returncode == 130, (out, err)
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_in_a_callback_is_not_lost():
    """Raised where Python swallows it, as in a finaliser."""

    class Swallows:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGINT)

    def press() -> None:
        with bar("checking", 10) as advance:
            advance()
            swallows = Swallows()
            del swallows
            advance()

    usual = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        press()
    assert signal.getsignal(signal.SIGINT) is usual
