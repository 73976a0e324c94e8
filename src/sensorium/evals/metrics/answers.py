"""Short answers to questions: the VQA accuracy with its official answer processing, and exact match."""

import re
from collections.abc import Sequence

_NUMBERS = {"none": 0, "zero": 0, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6}
_NUMBERS |= {"seven": 7, "eight": 8, "nine": 9, "ten": 10}
_ARTICLES = frozenset(("a", "an", "the"))
# "'" is no punctuation of the official list, and ":" is none either.
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_DIGIT_COMMA_DIGIT = re.compile(r"\d,\d")
_PERIOD = re.compile(r"\.(?!\d)")
_MAX_PERIODS = 32  # the owners pass a flag of `re` where the largest number of replacements belongs
_CONTRACTED = re.findall(
    r"\S+",
    """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've he's
how'd how'll how's isn't it'd it'd've it'll ma'am might've mightn't mightn't've must've mustn't needn't not've o'clock
oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd
someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've there're there's
they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've when's where'd
where's where've who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't wouldn't've y'all y'all'd've
y'all'll you'd you'd've you'll you're you've
""",
)
# Every form that lacks one apostrophe is mended; "somebody'd" alone loses its own, as the owners' table has it.
_CONTRACTIONS = {
    word[:at] + word[at + 1 :]: word for word in _CONTRACTED for at in range(len(word)) if word[at] == "'"
} | {"somebody'd": "somebodyd"}


def vqa_normalize(answer: str) -> str:
    """The official processing of an answer: punctuation, case, number words, articles, contractions.

    Source: VQAEval.processPunctuation and processDigitArticle of github.com/GT-Vision-Lab/VQA.
    """
    text = stripped = _one_line(answer)
    has_number = _DIGIT_COMMA_DIGIT.search(text) is not None
    for mark in _PUNCTUATION:
        beside_space = f"{mark} " in text or f" {mark}" in text
        stripped = stripped.replace(mark, "" if beside_space or has_number else " ")
    words = _PERIOD.sub("", stripped, count=_MAX_PERIODS).lower().split()
    words = [str(_NUMBERS.get(word, word)) for word in words]
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def vqa_accuracy(given: str, answers: Sequence[str]) -> float:
    """VQA accuracy of one answer: leaving each human out in turn, a third for each other human who agrees.

    Args:
        given: the model's answer.
        answers: those of the humans, ten in VQA and VizWiz. Where all are alike, nothing is processed and the
            answer must be the very same, as the owners' code has it.

    Returns:
        A value in [0, 1].

    Raises:
        ValueError: fewer than two answers, of which none can be left out.

    Source: VQA (arXiv 1505.00468) in the version of VQA v2's evaluation code, VQAEval.evaluate.
    """
    if len(answers) < 2:
        raise ValueError(f"{len(answers)} human answer(s); VQA accuracy leaves one out: give two or more")
    said, truths = _one_line(given), [_one_line(answer) for answer in answers]
    if len(set(truths)) > 1:
        said, truths = vqa_normalize(said), [vqa_normalize(truth) for truth in truths]
    agreed = [truth == said for truth in truths]
    return sum(min(1.0, (sum(agreed) - own) / 3) for own in agreed) / len(agreed)


def exact_match(given: str, answers: Sequence[str], *, normalize: bool = True) -> float:
    """1 where the answer is one of those that count as right, else 0.

    Args:
        normalize: compare after ``vqa_normalize``; otherwise only space around an answer is ignored.
    """
    clean = vqa_normalize if normalize else str.strip
    return float(clean(given) in {clean(answer) for answer in answers})


def _one_line(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()
