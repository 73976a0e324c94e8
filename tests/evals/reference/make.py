"""Makes the reference files from the owners' own code; run by hand, never by the tests.

    python make.py --vqa VQA/PythonEvaluationTools/vqaEvaluation/vqaEval.py

needs `pip install pycocoevalcap==1.2 apted==1.0.3`, a Java runtime for the owners' tokenizer, and a checkout of
github.com/GT-Vision-Lab/VQA (BSD-2-Clause; Python 2, which is mended here line by line before it runs).
"""

import argparse
import contextlib
import io
import json
import random
import re
import types
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
WORDS = re.findall(
    r"\S+",
    "two 2 a the An none red yes no Yes cat cats dog's t-shirt 10,000 3.5 U.S. ice-cream left/right wont it's "
    "dont couldnt've man, surfing? 'surfing' [white] {blue} green; (big) black&white coca_cola #1 5:30 p.m. "
    "half+half \"stop\" <none> @home `tick` what! zero Ten one,two 1,2 12. .5 a.b ma'am 'twas yall'd've",
)


def vqa_owner(path: Path) -> Any:
    """The owners' class, in Python 3."""
    source = re.sub(r"\bprint (\".*\")", r"print(\1)", path.read_text())
    module = types.ModuleType("vqaEval")
    exec(compile(source.expandtabs(4), str(path), "exec"), module.__dict__)
    return module.VQAEval


def vqa(path: Path, rng: random.Random) -> dict[str, Any]:
    owner = vqa_owner(path)
    questions = []
    for _ in range(400):
        pool = [answer(rng) for _ in range(rng.choice((1, 2, 3, 5)))]
        answers = [rng.choice(pool) for _ in range(10)]
        given = rng.choice([*pool, answer(rng), rng.choice(pool).upper(), rng.choice(pool) + "."])
        questions.append({"given": given, "answers": answers})
    for number, question in enumerate(questions):
        truth = types.SimpleNamespace(
            getQuesIds=lambda number=number: [number],
            qa={
                number: {
                    "answers": [{"answer": a, "answer_id": i} for i, a in enumerate(question["answers"], 1)],
                    "question_type": "what",
                    "answer_type": "other",
                }
            },
        )
        given = types.SimpleNamespace(qa={number: {"answer": question["given"]}})
        run = owner(truth, given, n=6)
        with contextlib.redirect_stdout(io.StringIO()):
            run.evaluate()
        question["accuracy"] = run.accuracy["overall"]
    table = [*run.contractions, *run.manualMap, *run.articles, *(answer(rng) for _ in range(300))]
    table += [f"x {word} y" for word in run.contractions] + ["a. b. c.5 . " * 40, "1,000 men; 5-a-side!"]
    processed = [[text, run.processDigitArticle(run.processPunctuation(text))] for text in table]
    return {"questions": questions, "processed": processed}


def answer(rng: random.Random) -> str:
    words = [rng.choice(WORDS) for _ in range(rng.choice((1, 1, 1, 2, 3)))]
    return rng.choice((" ", " ", " ", "\n", "\t", "  ", ", ", " - ")).join(words)


def sentences(rng: random.Random, number: int) -> list[str]:
    nouns = re.findall(
        r"\S+", "man woman dog cat horse bus kite pizza table street beach child umbrella snowboard"
    )
    verbs = re.findall(r"\S+", "rides holds sees eats watches throws isn't can't doesn't pulls walks")
    ends = [".", "", "!", " ...", "; it's late.", " (at night)", ", and they're happy", " - really?"]
    ends += [
        " on a 20-foot wave",
        " with a t-shirt",
        " at 5:30 p.m.",
        ' under a "stop" sign',
        " for $5",
        " & co.",
    ]
    lines = []
    for _ in range(number):
        first, second = rng.choice(nouns), rng.choice(nouns)
        start = rng.choice(("A", "The", "Two", "the man's", "A black-and-white", "An old,", "1,000", "Some"))
        lines.append(f"{start} {first} {rng.choice(verbs)} a {second}{rng.choice(ends)}")
    return lines


def captions(rng: random.Random) -> dict[str, Any]:
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    texts = sentences(rng, 240)
    cut = PTBTokenizer().tokenize({n: [{"caption": text}] for n, text in enumerate(texts)})
    corpora = []
    for number in range(6):
        references = {
            n: [" ".join(cut[rng.randrange(len(cut))][0].split()) for _ in range(rng.choice((1, 2, 5)))]
            for n in range(25)
        }
        given = {
            n: [shaken(rng.choice([*references[n], cut[rng.randrange(len(cut))][0]]), rng)] for n in range(25)
        }
        if number == 0:
            given[0] = [""]
        mean, scores = Cider().compute_score(references, given)
        corpora.append(
            {
                "references": [references[n] for n in range(25)],
                "given": [given[n][0] for n in range(25)],
                "mean": float(mean),
                "scores": [float(score) for score in scores],
            }
        )
    return {"cider": corpora, "tokens": [[text, cut[n][0]] for n, text in enumerate(texts)]}


def shaken(text: str, rng: random.Random) -> str:
    words = text.split()
    for _ in range(rng.randrange(4)):
        words.insert(rng.randrange(len(words) + 1), rng.choice(words))
    return " ".join(word for word in words if rng.random() > 0.1)


def trees(rng: random.Random) -> list[list[Any]]:
    from apted import APTED
    from apted.helpers import Tree

    cases = []
    for _ in range(200):
        a, b = (bracket(rng, rng.randrange(1, 25)) for _ in range(2))
        cases.append([a, b, APTED(Tree.from_text(a), Tree.from_text(b)).compute_edit_distance()])
    return cases


def bracket(rng: random.Random, size: int) -> str:
    """A random tree as {label{child}{child}}."""
    parts, left = [], size - 1
    while left:
        part = rng.randrange(1, left + 1)
        parts.append(bracket(rng, part))
        left -= part
    return "{" + rng.choice("abcd") + "".join(parts) + "}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vqa", type=Path, required=True)
    chosen = parser.parse_args()
    rng = random.Random(0)
    for name, made in {
        "vqa": vqa(chosen.vqa, rng),
        "captions": captions(rng),
        "trees": trees(rng),
    }.items():
        (HERE / f"{name}.json").write_text(json.dumps(made, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
