"""What a model makes of real inputs, one case for each thing that it was trained to do."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from sensorium.config import RunConfig
from sensorium.data.reader import Reader
from sensorium.data.templates import LANGUAGE_NAMES
from sensorium.evals.cases import Medium, Part, question_cases
from sensorium.evals.runner import Scored
from sensorium.finetuning.plan import known_templates
from sensorium.generate.interface import Model
from sensorium.media.parts import Audio, Image
from sensorium.starter import SOUND_SOURCES, TEST_STYLE

SAID = "hello world"
EDIT = "Make the background yellow."
SPOKEN = "star"  # a recorded word in the embedded data that names a picture there

Cases = Iterator[Scored]
T = TypeVar("T")


def can_edit(config: RunConfig) -> bool:
    """Whether a model was trained on edits: conversations whose answer is a picture."""
    sources = (*config.data.sources, *config.data.clean_sources)
    return any(source.path.rpartition("/")[2].startswith("edits") for source in sources)


def show_all(model: Model) -> Iterator[tuple[str, list[Scored], str]]:
    """(What is shown, its cases, why there are none) of every thing, in turn."""
    media, known = set(model.config.model.modalities), known_templates(model.config)
    for what, needed, learned, cases in SHOWN:
        lacking = sorted(needed - media)
        if lacking:
            yield what, [], f"the model has no {' and '.join(lacking)}"
        elif learned and not learned & known:
            yield what, [], "the model was not trained to do it"
        elif cases is edited and not can_edit(model.config):
            yield what, [], "the model was not trained on edits"
        else:
            yield what, list(cases(model)), ""


def named(model: Model) -> Cases:
    """Pictures in a style that was never trained on, named in every language that the model knows."""
    can_translate = "translate" in known_templates(model.config)
    rows = list(Reader(f"starter:{TEST_STYLE}", "train").rows())
    names = sorted({row["text"] for row in rows})
    names_ND = model.embed(names)
    for row in _some(rows, 3):
        picture = Image(row["image"]["bytes"])
        languages = sorted(row["names"] or {}) if can_translate else []
        asked: list[list[Part]] = [[picture, f"name in {LANGUAGE_NAMES[code]}"] for code in languages]
        answers = [model.generate(prompt, max_tokens=16) for prompt in asked]
        whats = [LANGUAGE_NAMES[code] for code in languages]
        truths = [row["names"][code] for code in languages]
        answers += [
            model.generate(picture, max_tokens=16),
            names[int((names_ND @ model.embed([picture])[0]).argmax())],
        ]
        whats += ["written", f"nearest of {len(names)} names"]
        truths += [row["text"]] * 2
        lines = [_line(*line) for line in zip(whats, answers, truths, strict=True)]
        yield _case(row["id"], (picture,), lines, _share(answers, truths))


def answered(model: Model) -> Cases:
    """Questions on pictures of easy-vqa's own test set."""
    for case in question_cases(_some(list(Reader("starter:easy-vqa", "test").rows()), 3)):
        answer = model.generate(list(case.prompt), max_tokens=12)
        lines = [_line(case.question, answer, case.answers[0])]
        yield _case(case.id, case.media, lines, _share([answer], case.answers[:1]))


def heard(model: Model) -> Cases:
    """Sounds of the training set, each with the nearest of all their names."""
    rows = [row for source in SOUND_SOURCES for row in Reader(f"starter:{source}", "train").rows()]
    names = sorted({row["text"] for row in rows})
    chosen = _some(rows, 3)
    sounds = [Audio(row["audio"]["bytes"]) for row in chosen]
    nearest = (model.embed(sounds) @ model.embed(names).T).argmax(axis=1)
    for row, sound, place in zip(chosen, sounds, nearest, strict=True):
        lines = [_line(f"nearest of {len(names)} names", names[place], row["text"])]
        yield _case(row["id"], (sound,), lines, _share([names[place]], [row["text"]]))


def found(model: Model) -> Cases:
    """A recorded word, and the picture that lies nearest to it."""
    voice = next(r for r in Reader("starter:asterisk-en", "validation").rows() if r["text"] == SPOKEN)
    rows = [row for split in ("train", "validation") for row in Reader("starter:noto", split).rows()]
    pictures = [Image(row["image"]["bytes"]) for row in rows]
    sound = Audio(voice["audio"]["bytes"])
    place = int((model.embed(pictures) @ model.embed([sound])[0]).argmax())
    lines = [_line(f"nearest of {len(rows)} pictures to a voice", rows[place]["text"], SPOKEN)]
    yield _case(voice["id"], (sound, pictures[place]), lines, _share([rows[place]["text"]], [SPOKEN]))


def drawn(model: Model) -> Cases:
    """Pictures from words, each beside the real one of the training set."""
    rows = _some(list(Reader("starter:noto", "train").rows()), 3)
    made = model.generate_many([row["text"] for row in rows], "image")
    for row, picture in zip(rows, made, strict=True):
        media = (Image(row["image"]["bytes"]), picture)
        yield _case(row["id"], media, [("drawn from", row["text"])], labels=("real", "drawn"))


def edited(model: Model) -> Cases:
    """A picture as it is, and as asked."""
    (row,) = _some(list(Reader("starter:noto", "train").rows()), 1)
    picture = Image(row["image"]["bytes"])
    asked: list[Part] = [picture, EDIT]
    changed = model.generate(asked, "image")
    yield _case(row["id"], (picture, changed), [("asked", EDIT)], labels=("before", "after"))


def said(model: Model) -> Cases:
    """Words spoken."""
    yield _case("said", (model.generate(f"say {SAID}", "audio"),), [("words", SAID)])


# What is shown: the modalities it needs, the templates of which the model must know one, and the cases.
SHOWN: tuple[tuple[str, set[str], set[str], Callable[[Model], Cases]], ...] = (
    ("Pictures in a style never trained on, named", {"image"}, {"pair", "translate"}, named),
    ("Questions answered", {"image"}, {"chat"}, answered),
    ("Sounds named (sounds of its training)", {"audio"}, {"pair", "embed", "align"}, heard),
    ("A spoken word, and the picture nearest to it", {"image", "audio"}, {"see-hear"}, found),
    ("Pictures drawn from words", {"image"}, {"pair"}, drawn),
    ("A picture edited", {"image"}, {"chat"}, edited),
    ("Words spoken", {"audio"}, {"speak", "speak-on"}, said),
)


def _some(rows: Sequence[T], num: int) -> Sequence[T]:
    """Evenly spread; which ones is not chosen by what the model makes of them."""
    return rows[len(rows) // (2 * num) :: len(rows) // num][:num]


def _line(what: str, answer: str, truth: str) -> tuple[str, str]:
    right = answer.strip().lower() == truth.strip().lower()
    return what, answer + (" (right)" if right else f" (truth: {truth})")


def _share(answers: Sequence[str], truths: Sequence[str]) -> float:
    pairs = list(zip(answers, truths, strict=True))
    return sum(a.strip().lower() == t.strip().lower() for a, t in pairs) / len(pairs)


def _case(
    sample_id: str,
    media: Sequence[Medium],
    lines: Sequence[tuple[str, str]],
    score: float | None = None,
    labels: tuple[str, ...] = (),
) -> Scored:
    verdict = "" if score is None else f"{score:.0%} right"
    return Scored(sample_id, score or 0.0, verdict, tuple(media), tuple(lines), labels)
