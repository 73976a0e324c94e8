"""Schedule and moving average in closed form; what decays and what does not."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from sensorium.config import TrainConfig
from sensorium.train import optimizer as optimizers
from sensorium.train.optimizer import EMA, Muon, MuonAdamW, learning_rate, orthogonal
from tests.model.small import random_model, small_config

CONFIG = TrainConfig(lr=2.0, warmup=0.1, decay=0.5, min_lr_ratio=0.05)


@pytest.mark.parametrize(
    ("progress", "lr"),
    [(0.0, 0.0), (0.05, 1.0), (0.1, 2.0), (0.3, 2.0), (0.5, 2.0), (0.75, 1.0), (0.98, 0.1), (1.0, 0.1)],
)
def test_learning_rate_rises_stays_and_falls(progress: float, lr: float) -> None:
    assert learning_rate(progress, CONFIG) == pytest.approx(lr)


@given(st.floats(0, 1), st.floats(0, 0.5), st.floats(0, 1))
def test_learning_rate_stays_in_its_range(progress: float, warmup: float, decay: float) -> None:
    config = TrainConfig(lr=2.0, warmup=warmup, decay=decay)
    assert 0 <= learning_rate(progress, config) <= 2.0
    assert learning_rate(1.0, config) == pytest.approx(2.0 * (config.min_lr_ratio if decay else 1.0))


def test_ema_in_closed_form() -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    ema = EMA(model, 0.5)
    expected = 0.0
    for step in range(1, 30):
        nn.init.constant_(model.weight, float(step))
        ema.update(model, step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
    assert float(ema.weights["weight"]) == pytest.approx(expected, rel=1e-6)
    # Of a ramp, the average with decay d lags d / (1 - d) behind.
    assert expected == pytest.approx(29 - 1, abs=1e-4)


def test_ema_of_constant_weights_is_the_weights() -> None:
    model = random_model(small_config())
    ema = EMA(model, 0.99)
    for step in range(1, 5):
        ema.update(model, step)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(ema.weights[name], value)
        assert ema.weights[name].data_ptr() != value.data_ptr()


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_matrices_decay_and_vectors_and_embeddings_do_not(kind: str) -> None:
    model = random_model(small_config(align_loss="sigmoid"))
    optimizer = MuonAdamW(model, TrainConfig(weight_decay=0.3))
    names = {parameter: name for name, parameter in model.named_parameters()}
    decay = {
        names[p]: group["weight_decay"]
        for part in optimizer.parts
        for group in part.param_groups
        for p in group["params"]
    }
    assert decay.keys() == {name for name, p in model.named_parameters() if p.requires_grad}
    assert decay["layers.0.mlp.up_proj.weight"] == decay["latent_proj.weight"] == 0.3
    assert (
        decay["embed_tokens.weight"]
        == decay["norm.weight"]
        == decay["logit_scale"]
        == decay["logit_bias"]
        == 0
    )


def test_muon_has_the_matrices_of_the_trunk_and_its_own_rate() -> None:
    model = random_model(small_config())
    optimizer = MuonAdamW(model, TrainConfig(optimizer="muon", muon_lr_scale=3.0))
    names = {parameter: name for name, parameter in model.named_parameters()}
    ours = {names[p] for p, part in optimizer.home.items() if isinstance(part, torch.optim.Muon)}
    assert ours == {n for n, p in model.named_parameters() if n.startswith("layers.") and p.ndim == 2}
    assert len(ours) == 7 * model.config.num_layers
    optimizer.set_lr(0.5)
    rates = {type(part): {group["lr"] for group in part.param_groups} for part in optimizer.parts}
    assert rates == {torch.optim.AdamW: {0.5}, Muon: {1.5}}


@pytest.mark.parametrize("shape", [(24, 24), (48, 16), (16, 48)])
def test_float32_products_give_what_bfloat16_ones_do(
    shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = {}
    for emulated in (False, True):
        monkeypatch.setattr(optimizers, "_emulates_bfloat16", lambda device, answer=emulated: answer)
        generator = torch.Generator().manual_seed(0)
        weight = nn.Parameter(torch.randn(shape, generator=generator))
        before = weight.detach().clone()
        muon = Muon([weight], lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
        for _ in range(4):
            weight.grad = torch.randn(shape, generator=generator)
            muon.step()
        moved[emulated] = weight.detach() - before
    apart = (moved[True] - moved[False]).norm() / moved[False].norm()
    assert 0 < apart < 0.02  # bfloat16 has three digits
    singular = torch.linalg.svdvals(orthogonal(torch.randn(shape, generator=generator), muon.defaults))
    # Of a square matrix the smallest is far from one still, after so few iterations.
    assert 0.3 < float(singular.min()) <= float(singular.max()) < 1.3


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_state_has_the_kinds_it_promises(kind: str) -> None:
    model = random_model(small_config())
    optimizer = MuonAdamW(model, TrainConfig(optimizer=kind))  # type: ignore[arg-type]
    for parameter in optimizer.home:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    for parameter in optimizer.home:
        assert set(optimizer.state_of(parameter)) == set(optimizer.state_kinds(parameter))


def test_patience_needs_losses_to_wait_for() -> None:
    with pytest.raises(
        ValueError, match=r"train.patience is 3 and train.eval_every 0: .* set train.eval_every too"
    ):
        TrainConfig(patience=3)
    assert TrainConfig(patience=3, eval_every=10).patience == 3
