"""Arguments of a verb: a frozen dataclass read by tyro, with words before, between and after options."""

import contextlib
import difflib
import io
import os
import re
import typing
from collections.abc import Sequence
from typing import Any, TypeVar

T = TypeVar("T")
_WIDE = {"COLUMNS": "1000"}  # so that tyro's sentences arrive unwrapped


def parse(cls: type[T], arguments: Sequence[str], *, verb: str, description: str) -> tuple[T, set[str]]:
    """Read arguments into ``cls``.

    Args:
        cls: a frozen dataclass whose options take a fixed number of values; at most one field is positional
            and takes all words.
        verb: for messages. description: shown by ``--help``, examples included.

    Returns:
        The dataclass, and the names of the fields that were given on the command line.

    Raises:
        ValueError: in one sentence, with the nearest option where one is unknown.
        SystemExit: after ``--help``.
    """
    options, words, given = split_words(cls, arguments, verb)
    value = run_tyro(cls, [*options, *(["--", *words] if words else [])], verb=verb, description=description)
    return value, given


def split_words(cls: type, arguments: Sequence[str], verb: str) -> tuple[list[str], list[str], set[str]]:
    """Options with their values, the words between them, and the names of the options given."""
    arity = {name: _arity(hint) for name, hint in typing.get_type_hints(cls).items()}
    known = [f"--{name.replace('_', '-')}" for name in arity]
    options: list[str] = []
    words: list[str] = []
    given: set[str] = set()
    waiting = list(arguments)
    while waiting:
        argument = waiting.pop(0)
        if argument == "--":
            words += waiting
            break
        if argument in ("-h", "--help"):
            options.append("--help")
        elif not re.match(r"--[^\s=]+(=|$)|-[A-Za-z]$", argument):
            words.append(argument)  # words, "-" for standard input, and text such as "-5 degrees"
        else:
            name = argument.lstrip("-").partition("=")[0].replace("-", "_")
            if name not in arity or not argument.startswith("--"):
                near = difflib.get_close_matches(argument, known, n=1, cutoff=0.0)[0]
                raise ValueError(
                    f"unknown option {argument}; the nearest is {near}; see `sensorium {verb} --help`"
                )
            given.add(name)
            num_values = 0 if "=" in argument else arity[name]
            options += [argument, *waiting[:num_values]]
            del waiting[:num_values]
    return options, words, given


def run_tyro(
    cls: Any,
    arguments: Sequence[str],
    *,
    verb: str,
    description: str,
    default: Any = None,
    pairs: bool = False,
) -> Any:
    """``tyro.cli`` whose complaint is a ValueError of one sentence instead of a box.

    Args:
        default: an instance that holds the defaults; without one those of ``cls`` are used.
        pairs: give every flag its opposite, ``--no-flag``.
    """
    import tyro

    complaint = io.StringIO()
    asks_help = "--help" in arguments
    try:
        with contextlib.redirect_stderr(complaint), _environment({} if asks_help else _WIDE):
            return tyro.cli(
                cls,
                prog=f"sensorium {verb}",
                description=description,
                args=list(arguments),
                config=() if pairs else (tyro.conf.FlagCreatePairsOff,),
                **({} if default is None else {"default": default}),
            )
    except SystemExit as stop:
        if not stop.code:
            raise
        raise ValueError(f"{_complaint(complaint.getvalue())}; see `sensorium {verb} --help`") from None


def help_only(arguments: Sequence[str]) -> bool:
    """Whether ``--help`` stands among the options."""
    end = list(arguments).index("--") if "--" in arguments else len(arguments)
    return any(argument in ("-h", "--help") for argument in arguments[:end])


def _arity(hint: Any) -> int:
    if hint is bool:
        return 0
    values = typing.get_args(hint) if typing.get_origin(hint) is tuple else (hint,)
    return 1 if values[-1] is Ellipsis else len(values)  # of any number: given again for each


def _complaint(box: str) -> str:
    """The first paragraph of tyro's box, and the option it thinks was meant."""
    # Where the terminal knows no box characters, rules are dashes.
    lines = ["" if not line.strip("- \t") else line.strip("│╭╮╰╯─ \t") for line in box.splitlines()]
    body: list[str] = []
    for line in lines[1:]:
        if not line and body:
            break
        body += [line] if line else []
    text = " ".join(body).rstrip(".")
    unknown = re.match(r"Unrecognized options: (.*)", text)
    if unknown:
        names = [item for item in re.split(r"[,\s]+", unknown[1]) if item.startswith("-")] or [unknown[1]]
        text = f"unknown option {', '.join(names)}"
        near = re.search(r"Perhaps you meant:\s+(--\S+)", "\n".join(lines))
        text += f"; the nearest is {near[1]}" if near else ""
    text = re.sub(r"invalid literal for int\(\) with base 10: ('.*')$", r"\1; expected a whole number", text)
    text = re.sub(r"could not convert string to float: ('.*')$", r"\1; expected a number", text)
    text = re.sub(r"^Error parsing (--\S+): (?='.*'; expected)", r"\1 is ", text)
    text = re.sub(r"^Missing value for argument '(--[^']*)'.*", r"\1 needs a value", text)
    text = re.sub(r"^Error parsing (?!--)\S+: ", "", text)  # where it is in our own dataclasses tells nobody
    missing = re.match(r"Missing from [^:]*: (--\S+(?: [A-Z]+)?)", text)
    return f"{missing[1]} is missing" if missing else text or "the arguments cannot be read"


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> typing.Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
