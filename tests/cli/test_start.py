"""What is there before any verb runs: help, versions, speed of starting, mistakes in the arguments."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

import sensorium
from sensorium import cli
from sensorium.cli import VERBS
from tests.cli.conftest import COMMAND, ENVIRONMENT, Run, assert_mistake, run_command


def best_of(arguments: list[str], limit_s: float, attempts: int = 10) -> float:
    """Seconds of the quickest run: the machine may be busy, so one run under the limit is proof."""
    best = float("inf")
    for _ in range(attempts):
        started = time.perf_counter()
        subprocess.run(arguments, check=True, stdout=subprocess.DEVNULL, env=ENVIRONMENT)
        best = min(best, time.perf_counter() - started)
    assert best < limit_s, f"the best of {attempts} runs took {best:.2f} s"
    return best


def test_help_answers_in_half_a_second() -> None:
    best_of([str(COMMAND), "--help"], 0.5)


def test_import_takes_less_than_three_tenths() -> None:
    best_of([sys.executable, "-c", "import sensorium"], 0.3)


def test_help_lists_every_verb() -> None:
    done = run_command("--help")
    assert done.returncode == 0
    for verb, (_, line) in VERBS.items():
        assert verb in done.stdout
        assert line in done.stdout
    assert run_command().stdout == done.stdout


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_a_verb_has_an_example_and_needs_no_torch(verb: str) -> None:
    code = (
        "import sys\nfrom sensorium.cli import main\n"
        f"try:\n    main([{verb!r}, '--help'])\n"
        "except SystemExit as stop:\n    assert not stop.code, stop.code\n"
        "assert 'torch' not in sys.modules, 'torch is imported for --help'"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=ENVIRONMENT
    )
    assert done.returncode == 0, done.stderr
    _, _, examples = done.stdout.partition("Examples:")
    assert f"sensorium {verb}" in examples


def test_version() -> None:
    assert run_command("--version").stdout == f"sensorium {sensorium.__version__}\n"


def test_unknown_verb_names_the_nearest() -> None:
    assert_mistake(run_command("trian"), "'trian'", "'train'")


def test_unknown_option_names_the_nearest() -> None:
    assert_mistake(run_command("generate", "hi", "--temprature", "1"), "--temprature", "--temperature")
    assert_mistake(run_command("--verson"), "'--verson'", "'--version'")


def test_value_of_another_kind() -> None:
    assert_mistake(run_command("generate", "hi", "--seed", "x"), "--seed", "'x'")
    assert_mistake(run_command("generate", "hi", "--seed"), "--seed")


@pytest.mark.parametrize(
    ("options", "environment"),
    [((), {"SENSORIUM_DEBUG": "1"}), (("--debug",), {}), (("--debug", "--seed", "1"), {})],
)
def test_debug_shows_the_traceback(options: tuple[str, ...], environment: dict[str, str]) -> None:
    done = run_command("generate", "", *options, environment=environment)
    assert done.returncode == 2
    assert "Traceback" in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("sensorium generate: the prompt is empty")


def test_words_may_stand_anywhere() -> None:
    from sensorium.commands.arguments import parse
    from sensorium.commands.generate import Generate

    line = [
        "a",
        "--seed",
        "3",
        "-5 degrees",
        "--guidance-interval",
        "0.2",
        "0.9",
        "b",
        "--json",
        "-",
        "--",
        "--x",
    ]
    chosen, given = parse(Generate, line, verb="generate", description="")
    assert chosen.prompt == ("a", "-5 degrees", "b", "-", "--x")
    assert (chosen.seed, chosen.guidance_interval, chosen.json) == (3, (0.2, 0.9), True)
    assert given == {"seed", "guidance_interval", "json"}


def test_generate_documents_the_defaults_of_the_options() -> None:
    import dataclasses

    from sensorium.commands.chat import Chat
    from sensorium.commands.generate import NOT_OPTIONS, Generate
    from sensorium.generate.requests import MediaOptions, TextOptions

    def defaults(*classes: type) -> dict[str, object]:
        return {field.name: field.default for cls in classes for field in dataclasses.fields(cls)}

    known = defaults(TextOptions, MediaOptions)
    mine = {name: value for name, value in defaults(Generate).items() if name not in NOT_OPTIONS}
    # These stand for "the model chooses" or "none", and are passed on only when they are given.
    not_given = {
        **{"grid": (0, 0), "duration_s": 0.0, "negative_prompt": "", "width": 0, "height": 0, "n": 1},
        **{"source": "", "mask": "", "stop": "", "choices": ""},
    }
    for name in ("stop_tokens", "logprobs"):  # for programs
        del known[name]
    assert mine == known | not_given
    talk = {name: value for name, value in defaults(Chat).items() if name not in NOT_OPTIONS}
    assert talk.items() <= defaults(TextOptions).items()
    assert len(talk) == 7


class Breaks:
    """A stand-in for a verb's module."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def main(self, arguments: list[str]) -> int:
        raise self.error


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (KeyboardInterrupt(), 130, ""),
        (ValueError("two\nlines"), 2, "sensorium info: two lines\n"),
        (OSError(28, "No space left on device"), 2, "sensorium info: No space left on device\n"),
        (PermissionError(13, "Permission denied", "x/y"), 2, "sensorium info: x/y: Permission denied\n"),
    ],
)
def test_exit_codes(
    error: BaseException,
    code: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(cli.importlib, "import_module", lambda name: Breaks(error))
    assert cli.main(["info"]) == code
    assert capsys.readouterr().err == said


def test_a_defect_of_ours_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli.importlib, "import_module", lambda name: Breaks(KeyError("x")))
    with pytest.raises(KeyError):
        cli.main(["info"])


def test_a_reader_that_goes_away_is_no_mistake(command: Run, tmp_path: Path) -> None:
    done = subprocess.run(
        f"{COMMAND} train nano --help | head -1",
        shell=True,
        capture_output=True,
        text=True,
        check=False,
        env=ENVIRONMENT,
    )
    assert done.stderr == ""
    assert done.stdout.startswith("usage: sensorium train")
