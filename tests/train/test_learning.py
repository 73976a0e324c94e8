"""Learning: eight real samples of every task at once are learned by heart, and shuffled pairs are not."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest
import torch

from sensorium.config import DataConfig, ModalityConfig, ModelConfig, RunConfig, TrainConfig
from sensorium.data.reader import Reader
from sensorium.data.sample import Sample, sample_of_row
from sensorium.data.templates import build_documents, chat_segments
from sensorium.evals.metrics.retrieval import matches_of_keys, recall_at_k
from sensorium.generate.interface import Model
from sensorium.generate.requests import MediaOptions, Request, TextOptions
from sensorium.losses import compute_losses
from sensorium.model.flow import draw_noise
from sensorium.model.sensorium import Sensorium
from sensorium.sequence.document import Document, EmbSegment, MediaSegment, Segment, TextSegment
from sensorium.sequence.packing import Batch, pack
from sensorium.sequence.tokenizer import Tokenizer
from sensorium.train.optimizer import EMA, MuonAdamW, learning_rate, tune_allocator
from sensorium.train.trainer import total_loss

TOKENIZER = Tokenizer.bytes()
# Noise near t = 0 only: with eight samples a trace of the signal says which one it is, and a network that
# sees more than a trace in training never needs to read the words.
TINY = ModelConfig(
    vocab_size=520,
    dim=256,
    num_layers=6,
    num_heads=4,
    num_kv_heads=2,
    head_dim=64,
    mlp_dim=512,
    latent_dim=128,
    modalities={
        "image": ModalityConfig(
            channels=3,
            patch=(16, 16),
            max_size=(64, 64),
            num_encoder_layers=1,
            noise_mu=-3.0,
            noise_scale=2.0,
        ),
        "audio": ModalityConfig(
            channels=1,
            patch=(6, 100),
            max_size=(96, 100),
            num_encoder_layers=1,
            refiner=False,
            noise_mu=-3.0,
            noise_scale=2.0,
        ),
    },
)
NUM_SAMPLES = 8


@dataclass
class Task:
    """Eight samples, all different in what is asked of them."""

    samples: list[Sample]
    template: str


@cache
def tasks() -> dict[str, Task]:
    def eight(source: str) -> list[Sample]:
        rows = list(Reader(f"starter:{source}", "train").rows())
        # Short ones first: learning by heart does not need long sounds.
        rows.sort(key=lambda row: (len((row["audio"] or {"bytes": b""})["bytes"]), row["id"]))
        found: dict[str, Sample] = {}
        for row in rows:
            sample = sample_of_row(row, TINY)
            answer = sample.messages[-1]["content"][0]["text"] if sample.messages else sample.text
            if answer not in found and (sample.messages or len(answer) < 24):
                found[answer] = sample
            if len(found) == NUM_SAMPLES:
                break
        return list(found.values())

    return {
        "picture": Task(eight("noto"), "pair"),
        "sound": Task(eight("scratch"), "pair"),
        "question": Task(eight("easy-vqa"), "chat"),
        "speech": Task(eight("asterisk-en"), "transcribe"),
    }


def documents(names: list[str]) -> list[Document]:
    """All documents of some tasks."""
    rng = np.random.default_rng(0)
    return [
        document
        for name in names
        for n, sample in enumerate(tasks()[name].samples)
        for document in build_documents(
            sample, tasks()[name].template, TOKENIZER, rng, pair_key=f"{name}/{n}"
        )
    ]


def optimise(
    num_steps: int, lr: float, batch_of: Callable[[int], Batch], *, align_only: bool = False
) -> Sensorium:
    """The parts of a training step. ``align_only`` leaves all losses but the alignment out."""
    tune_allocator()
    torch.manual_seed(0)
    model = Sensorium(TINY)
    config = TrainConfig(
        lr=lr,
        num_steps=num_steps,
        weight_decay=0.0,
        warmup=0.1,
        decay=0.6,
        optimizer="muon",
        w_align=1.0,  # as the recipes have it
    )
    optimizer = MuonAdamW(model, config)
    ema = EMA(model, 0.9)
    for step in range(num_steps):
        batch = batch_of(step)
        noise = draw_noise(batch, TINY, torch.Generator().manual_seed(step))
        optimizer.set_lr(learning_rate(step / num_steps, config))
        total, means = total_loss(compute_losses(model, batch, noise), config)
        model.zero_grad()
        (means["align"] if align_only else total).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        ema.update(model, step + 1)
        if step % 20 == 0 or step + 1 == num_steps:
            print(step, *(f"{name} {float(mean.detach()):.3f}" for name, mean in means.items()))
    model.load_state_dict(ema.weights)
    return model.eval()


def learn_everything() -> Sensorium:
    """One model, all tasks. Words are learned long before pictures and sounds, and then come less often."""
    every = documents(list(tasks()))
    drawn = [d for d in every if isinstance(d.segments[-1], MediaSegment)]
    whole, part = (pack(chosen, TOKENIZER, TINY, row_length=96) for chosen in (every, drawn))
    return optimise(190, 3e-3, lambda step: whole if step < 40 or step % 3 == 0 else part)


def learn_pairs(*, shuffled: bool) -> Sensorium:
    """Alignment alone, for a short while, with true pairs or with pairs shuffled anew in every step."""
    rng = np.random.default_rng(0)

    def batch_of(step: int) -> Batch:
        found = []
        for name in ("picture", "sound"):
            samples = tasks()[name].samples
            order = rng.permutation(NUM_SAMPLES) if shuffled else np.arange(NUM_SAMPLES)
            for n, sample in enumerate(samples):
                key, words = f"{name}/{n}", TextSegment(TOKENIZER.encode(samples[order[n]].text))
                found.append(Document([medium(sample), EmbSegment("a")], pair_key=key))
                found.append(Document([words, EmbSegment("b")], pair_key=key))
        return pack(found, TOKENIZER, TINY, row_length=96)

    return optimise(16, 1e-3, batch_of, align_only=True)


def door(model: Sensorium) -> Model:
    config = RunConfig(
        name="tiny", tokenizer="bytes", model=TINY, data=DataConfig(sources=()), train=TrainConfig()
    )
    return Model(model, TOKENIZER, config)


def medium(sample: Sample) -> MediaSegment:
    return sample.media[0].segment(noisy=False)


def answers(model: Model, prompts: list[list[Segment]]) -> list[str]:
    options = TextOptions(max_tokens=40)
    return [a.text for a in model.engine.generate([Request(prompt=p, text=options) for p in prompts])]


def retrieval(model: Sensorium, name: str) -> float:
    samples = tasks()[name].samples
    keys = [s.text for s in samples]
    media = door(model).embed_segments([[medium(s), EmbSegment()] for s in samples])
    words = door(model).embed(keys)
    both = (media @ words.T, words @ media.T)
    return float(np.mean([recall_at_k(similarity, matches_of_keys(keys, keys)) for similarity in both]))


@pytest.fixture(scope="module")
def learned() -> Sensorium:
    return learn_everything()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["picture", "sound"])
def test_names_are_learned_by_heart(learned: Sensorium, name: str) -> None:
    samples = tasks()[name].samples
    assert answers(door(learned), [[medium(s), EmbSegment()] for s in samples]) == [s.text for s in samples]


@pytest.mark.slow
def test_transcripts_are_learned_by_heart(learned: Sensorium) -> None:
    samples = tasks()["speech"].samples
    ask = TextSegment([*TOKENIZER.encode("transcribe"), TOKENIZER.assistant])
    assert answers(door(learned), [[medium(s), ask] for s in samples]) == [s.text for s in samples]


@pytest.mark.slow
def test_questions_are_learned_by_heart(learned: Sensorium) -> None:
    samples = tasks()["question"].samples
    prompts = [
        [*chat_segments(s.messages[:1], s.media, TOKENIZER), TextSegment([TOKENIZER.assistant])]
        for s in samples
    ]
    assert answers(door(learned), prompts) == [s.messages[1]["content"][0]["text"] for s in samples]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["picture", "sound"])
def test_each_is_retrieved_by_its_name(learned: Sensorium, name: str) -> None:
    assert retrieval(learned, name) == 1.0


@pytest.mark.slow
@pytest.mark.parametrize(("name", "modality"), [("picture", "image"), ("sound", "audio")])
def test_media_are_drawn_from_their_names(learned: Sensorium, name: str, modality: str) -> None:
    samples = tasks()[name].samples
    model = door(learned)
    prompts: list[list[Segment]] = [[TextSegment(TOKENIZER.encode(s.text)), EmbSegment()] for s in samples]
    options = MediaOptions(num_steps=2, guidance_scale=1.0)
    requests = [Request(prompt=p, output=modality, media=options) for p in prompts]
    made = [answer.parts[0].array for answer in model.engine.generate(requests)]
    truth = [s.media[0].clean_CHW for s in samples]
    assert [tuple(m.shape) for m in made] == [t.shape for t in truth]  # the model chose the right sizes
    error = np.mean([np.square(m.numpy() - t).mean() for m, t in zip(made, truth, strict=True)])
    # What needs no model: each sample as the mean of all (of those as long as it reaches).
    longest = max(t.shape[1] for t in truth)
    padded = np.stack(
        [np.pad(t, ((0, 0), (0, longest - t.shape[1]), (0, 0)), constant_values=np.nan) for t in truth]
    )
    mean = np.nanmean(padded, axis=0)
    baseline = np.mean([np.square(mean[:, : t.shape[1]] - t).mean() for t in truth])
    print(name, "error", error, "mean", baseline)
    assert error < baseline / 2
    # And each is nearest to its own.
    for n, m in enumerate(made):
        near = [np.square(m.numpy() - t).mean() if m.shape == t.shape else np.inf for t in truth]
        assert int(np.argmin(near)) == n


@pytest.mark.slow
def test_shuffled_pairs_do_not_retrieve() -> None:
    """The same short training with true pairs and with pairs shuffled anew in every step."""
    models = [learn_pairs(shuffled=shuffled) for shuffled in (False, True)]
    scores = [[retrieval(model, name) for name in ("picture", "sound")] for model in models]
    print("retrieval with true and with shuffled pairs", scores)
    assert min(scores[0]) >= 0.75
    assert max(scores[1]) <= 0.375  # chance is 0.125
