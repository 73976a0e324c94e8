"""``sensorium chat``: a conversation in the terminal, or from a pipe."""

import difflib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from sensorium.commands.arguments import parse
from sensorium.commands.parts import PARTS, STARTER, check_part, open_model, read_medium

HELP = """  /image FILE   add a picture to what you say next
  /audio FILE   add a sound to what you say next
  /video FILE   add a video to what you say next
  /reset        forget the conversation
  /save FILE    write the conversation as JSON
  /help         this list
  /quit         leave (as does the end of input)

An empty line sends what waits. In a pipe the first line that cannot be obeyed ends the chat."""
EXAMPLES = {"image": "cat.png", "audio": "meow.wav", "video": "clip.mp4"}
DESCRIPTION = f"""Talk with a model, with pictures and sounds, from the terminal or from a pipe.

Commands:
{HELP}

Examples:
  sensorium chat
  sensorium chat --model runs/tiny --temperature 0.7
  printf '/image cat.png\\nwhat is this?\\n' | sensorium chat
"""


@dataclass(frozen=True, kw_only=True)
class Chat:
    """Arguments of ``sensorium chat``."""

    model: Annotated[str, tyro.conf.arg(metavar="FOLDER")] = STARTER
    """A model folder or a run folder."""
    max_tokens: int = 64
    """The longest answer."""
    temperature: float = 0.0
    """0 takes the likeliest token, 1 draws as the model believes."""
    top_p: float = 1.0
    """Draw from the likeliest tokens that hold this share."""
    top_k: int = 0
    """Draw from this many of the likeliest tokens; 0 means all."""
    min_p: float = 0.0
    """Draw from tokens at least this share as likely as the likeliest."""
    repetition_penalty: float = 1.0
    """Makes what was read and said less likely; 1 does not."""
    seed: int = 0
    """Makes random answers repeatable."""
    weights: Annotated[str, tyro.conf.arg(metavar="KIND")] = "float32"
    """float32, or int8: 8-bit weights and compiled decoding, the first time after up to a minute."""


@dataclass
class Conversation:
    """What was said, and the media that wait for the next turn."""

    model: Any
    options: dict[str, Any]
    messages: list[dict[str, Any]] = field(default_factory=list)
    waiting: list[Any] = field(default_factory=list)

    def say(self, text: str, show: Callable[[str], None]) -> str:
        """One turn: text and the media before it in, the answer out, piece by piece."""
        content = [*self.waiting, *([text] if text.strip() else [])]
        turns = [*self.messages, {"role": "user", "content": content}]
        # Media alone at the start of a conversation are named, as `generate` does.
        prompt = turns if self.messages else content
        pieces = []
        for piece in self.model.generate(prompt, "text", stream=True, **self.options):
            pieces.append(piece)
            show(piece)
        # A turn counts only once it is answered: after an error the same line can be tried again.
        answer = "".join(pieces).strip()
        self.messages = turns + ([{"role": "assistant", "content": [answer]}] if answer else [])
        self.waiting = []
        return answer

    def save(self, path: Path) -> None:
        """JSON in the messages form; media by their file."""
        messages = [{**m, "content": [_saved(part) for part in m["content"]]} for m in self.messages]
        path.write_text(json.dumps(messages, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def main(arguments: Sequence[str]) -> int:
    """Read, answer, repeat."""
    chosen, given = parse(Chat, arguments, verb="chat", description=DESCRIPTION)
    talk = Conversation(
        open_model(chosen.model, chosen.weights),
        {name: getattr(chosen, name) for name in given - {"model", "weights"}},
    )
    live = sys.stdin.isatty()
    if live:
        print(f"model: {chosen.model}. /help lists the commands, /quit leaves.")
    for number, line in enumerate(_lines(live), 1):
        try:
            if line.startswith("/"):
                if not _command(line, talk):
                    return 0
            elif line.strip() or talk.waiting:
                talk.say(line, lambda piece: print(piece, end="", flush=True))
                print()
        except (ValueError, OSError) as error:
            # At a terminal the person tries again; in a pipe the lines that follow may rest on this one.
            if not live:
                raise ValueError(
                    f"line {number}: {error}; the chat ends here, later lines were not read"
                ) from error
            print(f"{error}", file=sys.stderr)
    return 0


def _command(line: str, talk: Conversation) -> bool:
    """Obey a line that begins with "/"; False to leave."""
    name, _, argument = line[1:].strip().partition(" ")
    argument = argument.strip()
    known = (*PARTS, "reset", "save", "help", "quit")
    if name in PARTS and not argument:
        raise ValueError(f"/{name} needs a file: /{name} {EXAMPLES[name]}")
    if name in PARTS:
        talk.waiting.append(check_part(read_medium(argument, name)))
        print(f"({name} {argument})")
    elif name == "reset":
        talk.messages, talk.waiting = [], []
        print("(forgotten)")
    elif name == "save":
        if not argument:
            raise ValueError("/save needs a file: /save talk.json")
        file = Path(argument).expanduser()
        if not file.parent.is_dir():
            raise FileNotFoundError(f"{file.parent}: no such folder to save {file.name} in; make it first")
        talk.save(file)
        print(f"(saved {argument})")
    elif name == "help":
        print(HELP)
    elif name != "quit":
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        raise ValueError(
            f"unknown command /{name}"
            + (f"; the nearest is /{near[0]}" if near else "")
            + "; /help lists them all"
        )
    return name != "quit"


def _lines(live: bool) -> Iterator[str]:
    if not live:
        yield from (line.rstrip("\r\n") for line in sys.stdin)
        return
    import contextlib

    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  (importing it gives ``input`` its history and editing)
    while True:
        try:
            yield input("> ")
        except EOFError:
            print()
            return


def _saved(part: Any) -> dict[str, str]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    kind = next(name for name, cls in PARTS.items() if isinstance(part, cls))
    return {"type": kind, "path": str(part.source)}
