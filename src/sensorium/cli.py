"""The command ``sensorium``: a table of verbs. A verb's module is imported only when it is chosen.

Exit codes: 0 done; 1 something the verb checks has failed (``doctor``); 2 a user's mistake, told in one
sentence on stderr; 130 interrupted. ``--debug`` or ``SENSORIUM_DEBUG=1`` shows the traceback of a mistake.
"""

import difflib
import importlib
import os
import sys
from collections.abc import Sequence

import sensorium

# verb: (module with main(arguments) -> exit code or None, what it does in one line)
VERBS: dict[str, tuple[str, str]] = {
    "quickstart": (
        "sensorium.commands.quickstart",
        "what the model that ships can do, and learns from 20 new pictures",
    ),
    "pretrain-demo": (
        "sensorium.commands.pretrain_demo",
        "train a small model from nothing in minutes, test it, write a report",
    ),
    "train": ("sensorium.commands.train", "train a recipe, or resume a run"),
    "finetune": ("sensorium.commands.finetune", "adapt a model to data of your own"),
    "runs": ("sensorium.commands.runs", "list runs, compare two: configuration, losses, a plot"),
    "generate": ("sensorium.commands.generate", "answer a prompt in text, a picture or a sound"),
    "chat": ("sensorium.commands.chat", "talk with a model, with pictures and sounds"),
    "embed": ("sensorium.commands.embed", "words, pictures and sounds as vectors of one space"),
    "data": ("sensorium.commands.data", "import, check, show, filter, export: everything about data"),
    "eval": ("sensorium.commands.eval", "put a model to a test, beside its baselines"),
    "info": ("sensorium.commands.info", "the architecture of a recipe or model, and what a token costs"),
    "doctor": ("sensorium.commands.doctor", "check this machine and this installation"),
}
DEBUG_VARIABLE = "SENSORIUM_DEBUG"
USER_MISTAKE, INTERRUPTED, BROKEN_PIPE = 2, 130, 141  # the last two are 128 + the signal, as shells have it


def usage() -> str:
    """What ``sensorium --help`` prints."""
    width = max(map(len, VERBS))
    return "\n".join(
        [
            "usage: sensorium VERB [ARGUMENTS]",
            "",
            "One transformer that reads, sees and hears, and answers in text, pictures or sound.",
            "",
            "Verbs:",
            *(f"  {verb:<{width}}  {line}" for verb, (_, line) in VERBS.items()),
            "",
            "Options:",
            "  --help     this page; with a verb, its own",
            "  --version  the version of sensorium",
            "  --debug    show the traceback of an error",
            "",
            "Examples:",
            "  sensorium quickstart",
            '  sensorium generate photo.png "what is this?"',
            "  sensorium train --help",
        ]
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb and return the exit code."""
    arguments, debug = _take_debug(list(sys.argv[1:] if argv is None else argv))
    first = arguments[0] if arguments else "--help"
    if first in ("--help", "-h", "help"):
        print(usage())
        return 0
    if first == "--version":
        print(f"sensorium {sensorium.__version__}")
        return 0
    if first not in VERBS:
        return _fail("sensorium", _unknown(first))
    module = importlib.import_module(VERBS[first][0])
    try:
        code = int(module.main(arguments[1:]) or 0)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # The reader (`head`, say) has gone. Python would complain once more when it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except (ValueError, OSError) as error:
        if debug:
            import traceback

            traceback.print_exc()
        verbs = getattr(module, "VERBS", {})  # `data` has verbs of its own
        return _fail(
            " ".join(["sensorium", first, *(v for v in arguments[1:2] if v in verbs)]), _sentence(error)
        )


def _take_debug(arguments: list[str]) -> tuple[list[str], bool]:
    """``--debug`` may stand anywhere before ``--``."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    kept = [a for a in arguments[:end] if a != "--debug"]
    debug = len(kept) < end or os.environ.get(DEBUG_VARIABLE, "0") not in ("", "0")
    return kept + arguments[end:], debug


def _unknown(verb: str) -> str:
    kind = "option" if verb.startswith("-") else "verb"
    known = ["--help", "--version", "--debug"] if kind == "option" else list(VERBS)
    near = difflib.get_close_matches(verb, known, n=1, cutoff=0.0)[0]
    return f"unknown {kind} {verb!r}; the nearest is {near!r}; `sensorium --help` lists them all"


def _sentence(error: ValueError | OSError) -> str:
    """An error in one line; errors of the operating system name their file first."""
    text = str(error)
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename is not None else str(error.strerror)
    return " ".join(text.split()) or type(error).__name__


def _fail(who: str, sentence: str) -> int:
    sys.stdout.flush()
    print(f"{who}: {sentence}", file=sys.stderr)
    return USER_MISTAKE


if __name__ == "__main__":
    sys.exit(main())
