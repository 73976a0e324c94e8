"""A model grown to twice its width computes the same, and then learns with all of it."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from sensorium.config import ModelConfig
from sensorium.data.shards import file_sha256
from sensorium.losses import compute_losses
from sensorium.model.sensorium import Sensorium
from sensorium.pretrained import load_model, load_weights
from sensorium.sequence.document import Document
from sensorium.sequence.packing import Batch
from sensorium.train.growth import WIDTHS, widen
from sensorium.train.step import total_loss
from sensorium.train.trainer import START_FILE, Trainer
from tests.model.small import documents, medium, noise_for, pack_documents, random_model, small_config, text
from tests.train.run import small_run, write_data


def doubled(config: ModelConfig, *keys: str) -> ModelConfig:
    return dataclasses.replace(config, **{key: 2 * getattr(config, key) for key in keys or WIDTHS})


def grown(narrow: Sensorium, config: ModelConfig) -> Sensorium:
    wide = Sensorium(config).eval()
    load_weights(wide, widen(narrow, config, "the narrow model"), "the narrow model")
    return wide


def losses(model: Sensorium, batch: Batch) -> dict[str, torch.Tensor]:
    return {
        name: loss.sum / loss.count
        for name, loss in compute_losses(model, batch, noise_for(batch, model.config)).items()
    }


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"stem": "linear", "tie_embeddings": False, "experts": "ffn"},
        {"qk_norm": False},
        {"spelled_per_patch": 3},
    ],
)
@pytest.mark.parametrize(
    "widths", [WIDTHS, ("dim",), ("mlp_dim",), ("latent_dim",), ("num_heads", "num_kv_heads")]
)
def test_a_grown_model_computes_the_same(changes: dict[str, Any], widths: tuple[str, ...]) -> None:
    narrow = random_model(small_config(**changes))
    wide = grown(narrow, doubled(narrow.config, *widths))
    said = Document([medium("audio", (4, 1), 9), text("moo", supervised=True)], "5", spelled="moo")
    batch = pack_documents([*documents(), said], narrow.config, row_length=80)
    before, after = losses(narrow, batch), losses(wide, batch)
    assert ("spell_audio" in before) == ("spelled_per_patch" in changes)
    assert sum(p.numel() for p in wide.parameters()) > sum(p.numel() for p in narrow.parameters())
    for name, loss in before.items():
        torch.testing.assert_close(after[name], loss, rtol=1e-4, atol=1e-5, msg=name)


def test_a_speller_that_the_narrow_model_lacks_starts_anew() -> None:
    narrow = random_model(small_config())
    one, two = (widen(narrow, small_config(spelled_per_patch=3), "the narrow model", seed) for seed in (0, 1))
    assert one.keys() - narrow.state_dict().keys() == {"spellers.audio.weight", "spellers.audio.bias"}
    assert not torch.equal(one["spellers.audio.weight"], two["spellers.audio.weight"])
    with pytest.raises(ValueError, match="spellers"):
        widen(random_model(small_config(spelled_per_patch=3)), small_config(), "the narrow model")


def test_the_same_width_is_left_as_it_is() -> None:
    model = random_model(small_config())
    same = widen(model, model.config, "the model")
    assert all(torch.equal(same[name], tensor) for name, tensor in model.state_dict().items())


def test_the_halves_part() -> None:
    """Copies with equal gradients would stay copies, and a wide model would be a narrow one."""
    narrow = random_model(small_config(experts="ffn"))
    wide = grown(narrow, doubled(narrow.config)).train()
    batch = pack_documents(documents(), narrow.config, row_length=80)
    total_loss(compute_losses(wide, batch, noise_for(batch, wide.config)), small_run(Path()).train)[
        0
    ].backward()
    gradients = {name: p.grad for name, p in wide.named_parameters() if p.grad is not None}
    # What writes to the two halves of the stream, and what each copy of a head and of a hidden unit is made by.
    for name in (
        "layers.0.self_attn.q_proj.weight",
        "layers.0.self_attn.o_proj.weight",
        "layers.1.mlp.up_proj.weight",
        "layers.1.noisy_mlp.down_proj.weight",
        "encoders.image.stem.projection.weight",
    ):
        one, other = gradients[name].chunk(2, dim=0)
        assert (one - other).norm() > 0.1 * one.norm(), name


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"dim": 96}, "model.dim is 32"),
        ({"num_heads": 8}, "double both or neither"),  # other heads would share a key
        ({"head_dim": 24}, "q_proj"),  # other angles and another temperature
        ({"vocab_size": 1040}, "embed_tokens"),  # every word twice
        ({"num_layers": 3}, "layers.2"),
    ],
)
def test_what_would_not_be_the_same_is_refused(changes: dict[str, Any], words: str) -> None:
    narrow = random_model(small_config())
    with pytest.raises(ValueError, match=words):
        grown(narrow, dataclasses.replace(doubled(narrow.config, "mlp_dim"), **changes))


def test_a_run_starts_from_a_narrow_model(tmp_path: Path) -> None:
    write_data(tmp_path)
    config = small_run(tmp_path, num_steps=2)
    narrow = Trainer(config, tmp_path / "narrow").train()
    wide = Trainer(dataclasses.replace(config, model=doubled(config.model)), tmp_path / "wide", start=narrow)
    model, _, _ = load_model(narrow)
    batch = pack_documents(documents()[:1], small_config(), row_length=80)
    torch.testing.assert_close(
        wide.model(batch)[batch.labels_BT >= 0].chunk(2, dim=-1)[0] * 2,
        model(batch)[batch.labels_BT >= 0],
        rtol=1e-3,
        atol=1e-3,
    )
    assert wide.train().name == "step-000002"
    told = json.loads((tmp_path / "wide" / START_FILE).read_text())
    assert told == {"model": str(narrow), "sha256": file_sha256(narrow / "model.safetensors")}
