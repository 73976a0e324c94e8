"""The loss that teaches to hear: what is spelled, by which states, and that nothing else changes by it."""

import dataclasses
import math
import tempfile
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from sensorium import recipes
from sensorium.config import TrainConfig
from sensorium.losses import compute_losses, count_by_document, count_items
from sensorium.sequence.document import Document
from sensorium.sequence.packing import Batch
from sensorium.train.step import total_loss
from sensorium.train.trainer import Trainer
from tests.model.small import (
    documents,
    medium,
    noise_for,
    pack_documents,
    random_model,
    small_config,
    text,
)

CONFIG = small_config(spelled_per_patch=3)


def spoken(words: str, num_patches: int, seed: int) -> Document:
    """A sound in which words are said."""
    heard = text(words, supervised=True)
    return Document([medium("audio", (num_patches, 1), seed), text("?"), heard], str(seed), spelled=words)


def both() -> list[Document]:
    return [spoken("Moo", 3, 1), *documents(), spoken("été", 6, 2)]


def of(chosen: list[Document]) -> Batch:
    return pack_documents(chosen, CONFIG, row_length=80)


def test_fewer_than_no_bytes_are_refused() -> None:
    with pytest.raises(ValueError, match="spelled_per_patch is -1; expected 0"):
        small_config(spelled_per_patch=-1)


def test_what_is_spelled_is_lower_case_bytes_that_fit() -> None:
    spelled = of([*both(), spoken("a" * 10, 3, 3), spoken("ab" * 5, 3, 4), spoken("", 3, 5)]).spelled["audio"]
    # Ten letters of one kind need ten places and nine blanks between them: more than three patches have.
    assert spelled.num_patches_N.tolist() == [3, 6]
    assert spelled.num_letters_N.tolist() == [3, 5]
    assert bytes(spelled.letters_S.tolist()) == "mooété".encode()
    assert len(spelled.token_index_P) == 9
    exactly = of([spoken("abcdefghi", 3, 4), spoken("aabcdefg", 3, 5), spoken("aabcdefgh", 3, 6)]).spelled
    assert exactly["audio"].num_letters_N.tolist() == [9, 8]
    assert of(documents()).spelled == {}
    plain = small_config()
    assert pack_documents(both(), plain, row_length=80).spelled == {}


def test_a_patch_that_the_text_follows_keeps_its_last_state() -> None:
    sound = medium("audio", (3, 1), 1)
    spelled = of([Document([sound, text("moo", supervised=True)], "1", spelled="moo")]).spelled["audio"]
    assert spelled.num_patches_N.tolist() == [2]


def test_the_loss_is_that_of_each_sound_alone() -> None:
    model = random_model(CONFIG)
    batch = of(both())
    losses = compute_losses(model, batch, noise_for(batch, CONFIG))
    total = torch.zeros(())
    for document in (both()[0], both()[-1]):
        alone = of([document])
        features = model.encoders["audio"](alone.context["audio"])
        states = F.rms_norm(features, (CONFIG.dim,))
        log_probs = model.spellers["audio"](states).view(-1, 1, 256).log_softmax(-1)
        said = torch.tensor([list(document.spelled.lower().encode())])
        lengths = torch.tensor([len(log_probs)]), torch.tensor([said.shape[1]])
        total += F.ctc_loss(log_probs, said, *lengths, reduction="sum")
    torch.testing.assert_close(losses["spell_audio"].sum, total)
    assert float(losses["spell_audio"].count) == 8 == count_items(batch, CONFIG)["spell_audio"]
    parts, counts = losses["spell_audio"].parts, count_by_document(batch, CONFIG)["spell_audio"]
    assert parts is not None
    torch.testing.assert_close(parts.sum(), total)
    assert counts.tolist() == [3, *[0] * len(documents()), 5]
    assert (parts > 0).tolist() == (counts > 0).tolist()


def test_the_other_losses_are_what_they_are_without_it() -> None:
    model, plain = random_model(CONFIG), random_model(small_config())
    plain.load_state_dict({k: v for k, v in model.state_dict().items() if not k.startswith("spellers")})
    batch = of(both())
    ours = compute_losses(model, batch, noise_for(batch, CONFIG))
    theirs_batch = pack_documents(both(), plain.config, row_length=80)
    theirs = compute_losses(plain, theirs_batch, noise_for(theirs_batch, plain.config))
    assert ours.keys() - theirs.keys() == {"spell_audio"}
    for name, loss in theirs.items():
        torch.testing.assert_close(ours[name].sum, loss.sum, rtol=1e-5, atol=1e-5)
    without, _ = total_loss(theirs, TrainConfig())
    whole, means = total_loss(ours, TrainConfig(w_spell=0.5))
    torch.testing.assert_close(whole, without + 0.5 * means["spell_audio"])


def test_the_speller_has_a_gradient_in_every_step() -> None:
    for chosen in (both(), documents()):
        model = random_model(CONFIG).train()
        batch = of(chosen)
        total_loss(compute_losses(model, batch, noise_for(batch, CONFIG)), TrainConfig())[0].backward()
        grad = model.spellers["audio"].weight.grad
        assert grad is not None
        assert bool(grad.abs().sum() > 0) == bool(batch.spelled)


def test_a_sound_is_spelled_by_its_encoder_alone() -> None:
    """The trunk is left as free as without it."""
    model = random_model(CONFIG).train()
    batch = of([dataclasses.replace(spoken("moo", 3, 1), segments=[medium("audio", (3, 1), 1)])])
    compute_losses(model, batch, {})["spell_audio"].sum.backward()
    assert all(p.grad is None or not p.grad.any() for p in model.layers.parameters())
    assert all(p.grad is not None and p.grad.any() for p in model.encoders["audio"].parameters())


def test_without_the_trunk_the_loss_and_its_gradients_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    grads = []
    for encoders_only in (False, True):
        model = random_model(CONFIG).train()
        batch = of([dataclasses.replace(spoken("moo", 3, 1), segments=[medium("audio", (3, 1), 1)])])
        if encoders_only:
            monkeypatch.setattr(model, "trunk", None)  # nobody may call it
        losses = compute_losses(model, batch, {}, encoders_only=encoders_only)
        losses["spell_audio"].sum.backward()
        grads.append([losses["spell_audio"].sum, *(p.grad for p in model.encoders["audio"].parameters())])
        assert [float(loss.count) for name, loss in losses.items() if name != "spell_audio"] == [0.0] * 5
    for ours, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_only_spellers_and_their_encoders_are_trained(tmp_path: Path) -> None:
    """By the recipe, with Muon for the encoder's matrices; no weight of anything else moves, not even by decay."""
    config = recipes.get("hearing-debug")
    train = dataclasses.replace(config.train, num_steps=2)
    trainer = Trainer(dataclasses.replace(config, train=train), tmp_path / "run")
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer.model, "trunk", None)
        trainer.train()
    moved = {name for name, p in trainer.model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {name for name in before if name.startswith(("encoders.audio.", "spellers."))}
    assert any(".blocks." in name for name in moved)
    muon = trainer.optimizer.parts[1].param_groups[0]["params"]
    assert {id(p) for p in muon} == {
        id(p) for name, p in trainer.model.named_parameters() if ".audio.blocks." in name and p.ndim == 2
    }


def test_spellers_alone_still_learn_from_a_transcript_by_the_trunk() -> None:
    """Where more is asked than letters, the frozen trunk is computed."""
    config = recipes.get("hearing-debug")
    sources = tuple(dataclasses.replace(s, templates={"transcribe": 1.0}) for s in config.data.sources)
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, sources=sources))
    with tempfile.TemporaryDirectory() as run:
        trainer = Trainer(config, Path(run) / "run")
        batch = next(iter(trainer.loader.stream(0, 1)))[1]
        calls, trunk = [], trainer.model.trunk
        trainer.model.trunk = lambda *args, **options: (calls.append(1), trunk(*args, **options))[1]  # type: ignore
        values = trainer.train_step([batch])
    assert calls
    assert abs(values["loss_text"] - math.log(config.model.vocab_size)) > 1e-3
    assert values["loss_spell_audio"] > 0


def test_without_the_trunk_all_that_is_trained_has_a_gradient_in_every_step() -> None:
    """Also where a sound is there and its text does not fit: a rank alone would wait for the others forever."""
    model = random_model(CONFIG).train()
    batch = of([dataclasses.replace(spoken("a" * 40, 3, 1), segments=[medium("audio", (3, 1), 1)])])
    assert batch.context
    assert not batch.spelled
    losses = compute_losses(model, batch, {}, encoders_only=True)
    total_loss(losses, TrainConfig())[0].backward()
    for part in (model.encoders["audio"], model.spellers["audio"]):
        assert all(p.grad is not None for p in part.parameters())


def test_spellers_that_are_not_there_cannot_be_trained() -> None:
    config = recipes.get("nano-debug")
    with pytest.raises(ValueError, match="no modality has a speller; set its spelled_per_patch"):
        dataclasses.replace(config, train=dataclasses.replace(config.train, trained="spellers"))
