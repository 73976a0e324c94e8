"""CLIP_benchmark's own metric functions run on a model of ours, and give the figures of ours."""

from typing import Any

import numpy as np
import pytest
import torch
from clip_benchmark.metrics import image_caption_selection, zeroshot_classification, zeroshot_retrieval
from PIL import Image as pillow
from torch.utils.data import DataLoader, Dataset

import sensorium as sm
from sensorium.data.reader import Reader
from sensorium.evals.bridge.clip import ClipModel, load_clip
from sensorium.evals.metrics.retrieval import class_vectors, recall_at_k, zero_shot_accuracy
from tests.generate.small_model import small_model

NUM = 40
TEMPLATES = ["{c}", "a picture of a {c}"]


class Emoji(Dataset[Any]):
    """Pictures of a style that the starter model saw, with what they show in two languages, or with its number."""

    def __init__(self, transform: Any, *, numbers: bool) -> None:
        reader = Reader("starter:noto", "train")
        rows = (
            reader.row(block, place) for block, size in enumerate(reader.block_sizes) for place in range(size)
        )
        chosen = {row["text"]: row for row in rows if row["names"]["de"] != row["text"]}
        self.rows = list(chosen.values())[:NUM]
        self.pictures = [sm.Image(row["image"]["bytes"]) for row in self.rows]
        self.classes = [row["text"] for row in self.rows]
        self.captions = [[row["text"], row["names"]["de"]] for row in self.rows]
        self.transform, self.numbers = transform, numbers

    def __len__(self) -> int:
        return NUM

    def __getitem__(self, place: int) -> Any:
        picture = self.transform(pillow.fromarray(self.pictures[place].pixels()))
        return picture, place if self.numbers else self.captions[place]


def captions_apart(batch: list[Any]) -> tuple[torch.Tensor, list[list[str]]]:
    return torch.stack([picture for picture, _ in batch]), [texts for _, texts in batch]


def test_zero_shot_retrieval_with_several_captions() -> None:
    clip, transform, tokenizer = load_clip()
    data = Emoji(transform, numbers=False)
    loader = DataLoader(data, batch_size=16, collate_fn=captions_apart)
    found = zeroshot_retrieval.evaluate(clip, loader, tokenizer, "cpu", amp=False, recall_k_list=[1, 5])

    texts = [text for captions in data.captions for text in captions]
    similarity = clip.model.embed(data.pictures) @ clip.model.embed(texts).T
    matches = np.repeat(np.eye(NUM, dtype=bool), 2, axis=1)
    for k in (1, 5):
        assert found[f"text_retrieval_recall@{k}"] == pytest.approx(recall_at_k(similarity, matches, k))
        assert found[f"image_retrieval_recall@{k}"] == pytest.approx(recall_at_k(similarity.T, matches.T, k))
    assert found["image_retrieval_recall@5"] > 3 * 5 / NUM  # pictures and words arrive: far from chance


def accuracy(output: torch.Tensor, target: torch.Tensor, topk: tuple[int, ...]) -> list[float]:
    """Theirs makes a float of an array with one axis (1.6.2), which NumPy refuses since 2.4."""
    ranked = output.topk(max(topk), dim=1).indices == target[:, None]
    return [float(ranked[:, :k].any(dim=1).float().mean()) for k in topk]


@pytest.mark.parametrize("amp", [False, True])
def test_zero_shot_classification(amp: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if np.lib.NumpyVersion(np.__version__) >= "2.4.0":
        monkeypatch.setattr(zeroshot_classification, "accuracy", accuracy)
    clip, transform, tokenizer = load_clip()
    data = Emoji(transform, numbers=True)
    loader = DataLoader(data, batch_size=16)
    found = zeroshot_classification.evaluate(clip, loader, tokenizer, data.classes, TEMPLATES, "cpu", amp=amp)
    media = clip.model.embed(data.pictures)
    classes = class_vectors(clip.model.embed, data.classes, [t.replace("{c}", "{}") for t in TEMPLATES])
    # With mixed precision (its default) near ties may fall to the other side.
    margin = 3 / NUM if amp else 1e-6
    for name, k in (("acc1", 1), ("acc5", 5)):
        wanted = zero_shot_accuracy(media, classes, range(NUM), k=k)
        assert found[name] == pytest.approx(wanted, abs=margin)
    assert found["acc5"] > 3 * 5 / NUM


def test_choosing_the_right_caption_for_each_of_two_pictures() -> None:
    clip, transform, tokenizer = load_clip()
    data = Emoji(transform, numbers=False)
    pairs = [
        (torch.stack([data[n][0], data[n + 1][0]]), [data.classes[n], data.classes[n + 1]])
        for n in range(0, NUM, 2)
    ]
    loader = DataLoader(pairs, batch_size=5, collate_fn=captions_apart)  # type: ignore[arg-type]
    found = image_caption_selection.evaluate(clip, loader, tokenizer, "cpu", amp=False)
    pictures, words = clip.model.embed(data.pictures), clip.model.embed(data.classes)
    similarity = [pictures[n : n + 2] @ words[n : n + 2].T for n in range(0, NUM, 2)]
    for name, axis in (("text_acc", 1), ("image_acc", 0)):
        right = [(pair.argmax(axis=axis) == [0, 1]).all() for pair in similarity]
        assert found[name] == pytest.approx(np.mean(right))
    assert found["acc"] > 0.25  # chance


def test_vectors_are_those_of_embed() -> None:
    clip, transform, tokenizer = load_clip("starter")
    words = ["a", "a much longer text, by which the others are filled up", "dog"]
    ids = tokenizer(words)
    assert ids.dtype == torch.int64
    assert torch.equal(tokenizer("dog"), ids[2:, : len(tokenizer("dog")[0])])
    assert np.allclose(clip.encode_text(ids), clip.model.embed(words), atol=1e-5)
    # Transparent, of another shape, in grey: as the model sees them elsewhere.
    pictures = [pillow.new("RGBA", (50, 20), (200, 0, 0, 99)), pillow.new("L", (9, 9), 90)]
    images = torch.stack([transform(picture) for picture in pictures])
    assert images.dtype == torch.float32
    assert np.allclose(
        clip.encode_image(images), clip.model.embed([sm.Image(p) for p in pictures]), atol=1e-5
    )
    assert clip.eval() is clip


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(ValueError, match="empty"):
        ClipModel(small_model()).tokenizer(["a dog", ""])
    with pytest.raises(ValueError, match=r"shape \(3, 224, 224\); expected \(3, 16, 16\): use the transform"):
        ClipModel(small_model()).encode_image(torch.zeros(1, 3, 224, 224))
    with pytest.raises(FileNotFoundError, match="no model folder at nowhere"):
        load_clip("nowhere")
    blind = small_model()
    del blind.config.model.modalities["image"]
    with pytest.raises(ValueError, match="reads no pictures"):
        ClipModel(blind)
