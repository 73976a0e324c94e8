"""Each loss against its definition, and in closed form."""

import math

import pytest
import torch
import torch.nn.functional as F

from sensorium.config import TrainConfig
from sensorium.losses import align_loss, compute_losses, count_items, flow_loss, text_loss
from sensorium.model.flow import MIN_ONE_MINUS_T, Noise, add_noise, draw_noise, to_clean, velocity
from sensorium.model.sensorium import Sensorium
from sensorium.sequence.document import Document
from sensorium.train.trainer import total_loss
from tests.model.small import documents, medium, noise_for, pack_documents, random_model, small_config, text

ZERO = torch.zeros(())
SCALE = torch.tensor(10.0).log()


def unit(rows: int, seed: int) -> torch.Tensor:
    return F.normalize(torch.randn(rows, 8, generator=torch.Generator().manual_seed(seed)), dim=-1)


def test_text_loss_is_cross_entropy_over_supervised_positions() -> None:
    model = random_model(small_config())
    batch = pack_documents(documents(), model.config, row_length=80)
    hidden = model(batch, noise_for(batch, model.config))
    loss, z = text_loss(model, hidden, batch)
    logits = model.logits(hidden).flatten(0, 1)
    expected = F.cross_entropy(logits, batch.labels_BT.flatten(), ignore_index=-100)
    torch.testing.assert_close(loss.sum / loss.count, expected)
    log_z = logits.logsumexp(-1)[batch.labels_BT.flatten() != -100]
    torch.testing.assert_close(z.sum / z.count, log_z.square().mean())
    assert loss.count == z.count == (batch.labels_BT != -100).sum()


@pytest.mark.parametrize(("text_average", "power"), [("token", 0.0), ("root", 0.5), ("document", 1.0)])
def test_how_much_a_token_counts_in_a_document(text_average: str, power: float) -> None:
    model = random_model(small_config())
    long, short = (Document([text(words), text(words, supervised=True)]) for words in ("0123456789", "a"))
    batch = pack_documents([long, short, long], model.config, row_length=24)
    loss, z = text_loss(model, model(batch), batch, text_average)
    assert loss.parts is not None
    of_long, of_short, _ = loss.parts
    expected = 2 * of_long / 10**power + of_short
    torch.testing.assert_close(loss.sum, expected)
    assert float(loss.count) == pytest.approx(2 * 10 ** (1 - power) + 1)
    assert count_items(batch, model.config, text_average)["text"] == pytest.approx(float(loss.count))
    assert z.count == 21


def test_text_loss_of_nothing_supervised_is_zero_of_zero() -> None:
    model = random_model(small_config())
    batch = pack_documents([Document([text("abc")])], model.config)
    loss, z = text_loss(model, model(batch), batch)
    assert (float(loss.sum), float(loss.count), float(z.sum)) == (0, 0, 0)
    loss.sum.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_softmax_loss_is_clips() -> None:
    a, b = unit(6, 0), unit(6, 1)
    loss = align_loss(a, b, torch.eye(6, dtype=torch.bool), SCALE, ZERO, "softmax")
    logits = 10 * a @ b.T
    labels = torch.arange(6)
    clip = (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2
    torch.testing.assert_close(loss.sum / loss.count, clip)


def test_sigmoid_loss_is_siglips() -> None:
    a, b = unit(6, 0), unit(6, 1)
    loss = align_loss(a, b, torch.eye(6, dtype=torch.bool), SCALE, torch.tensor(-10.0), "sigmoid")
    logits = 10 * a @ b.T - 10
    z = 2 * torch.eye(6) - 1
    torch.testing.assert_close(loss.sum / loss.count, -F.logsigmoid(z * logits).sum() / 6)


@pytest.mark.parametrize("M", [1, 2, 5])
def test_softmax_loss_on_identity_features(M: int) -> None:
    """The positive has logit 10 and M - 1 others 0: log(1 + (M - 1) e^-10)."""
    loss = align_loss(torch.eye(M), torch.eye(M), torch.eye(M, dtype=torch.bool), SCALE, ZERO, "softmax")
    assert float(loss.sum / loss.count) == pytest.approx(math.log1p((M - 1) * math.exp(-10)), abs=1e-6)
    assert float(loss.count) == 2 * M


def test_softmax_loss_with_several_positives() -> None:
    """Pairs 0 and 1 belong together: identical latents give log 2 (the entropy of the target) and no less."""
    latents = torch.tensor([[1.0, 0], [1, 0], [0, 1]])
    positives = torch.tensor([[1, 1, 0], [1, 1, 0], [0, 0, 1]], dtype=torch.bool)
    loss = align_loss(latents, latents, positives, torch.tensor(50.0).log(), ZERO, "softmax")
    assert float(loss.sum) == pytest.approx(2 * (2 * math.log(2)), abs=1e-5)
    wrong = align_loss(
        latents, latents, torch.eye(3, dtype=torch.bool), torch.tensor(50.0).log(), ZERO, "softmax"
    )
    leaf = latents.clone().requires_grad_()
    align_loss(leaf, leaf, positives, torch.tensor(50.0).log(), ZERO, "softmax").sum.backward()
    torch.testing.assert_close(leaf.grad, torch.zeros(3, 2), atol=1e-4, rtol=0)  # the best there is
    assert float(wrong.sum) == pytest.approx(float(loss.sum), abs=1e-5)  # the two cannot be told apart


def test_both_directions_of_several_positives() -> None:
    a, b = unit(4, 0), unit(4, 1)
    positives = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 1]], dtype=torch.bool)
    loss = align_loss(a, b, positives, SCALE, ZERO, "softmax")
    expected = 0.0
    for left, right in ((a, b), (b, a)):
        for i in range(4):
            log_p = (10 * left[i] @ right.T).log_softmax(0)
            expected -= float(log_p[positives[i]].mean())
    assert float(loss.sum) == pytest.approx(expected, rel=1e-5)


def test_sigmoid_loss_with_several_positives_and_zero_scale() -> None:
    """At scale e^-inf and bias 0 every cell is a coin: M^2 log 2, over M."""
    positives = torch.ones(3, 3, dtype=torch.bool)
    loss = align_loss(unit(3, 0), unit(3, 1), positives, torch.tensor(-100.0), ZERO, "sigmoid")
    assert float(loss.sum / loss.count) == pytest.approx(3 * math.log(2), rel=1e-5)
    eye = align_loss(
        torch.eye(3), torch.eye(3), torch.eye(3, dtype=torch.bool), SCALE, torch.tensor(-5.0), "sigmoid"
    )
    each = math.log1p(math.exp(-5.0))  # positives at +5, negatives at -5
    assert float(eye.sum / eye.count) == pytest.approx(3 * each, rel=1e-5)


def test_the_scale_of_logits_has_clips_ceiling() -> None:
    eye = torch.eye(3, dtype=torch.bool)
    scales = torch.tensor([100.0, 1000.0]).log()
    at = [align_loss(unit(3, 0), unit(3, 1), eye, scale, ZERO, "softmax").sum for scale in scales]
    torch.testing.assert_close(at[0], at[1])


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_no_pairs_is_zero_of_zero(kind: str) -> None:
    none = torch.zeros(0, 8)
    loss = align_loss(none, none, torch.zeros(0, 0, dtype=torch.bool), SCALE, ZERO, kind)
    assert (float(loss.sum), float(loss.count)) == (0, 0)


def flow_case(t: list[float]) -> tuple[torch.Tensor, Noise, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(len(t), 3, 4, 8, generator=generator)
    noise = Noise(torch.tensor(t), torch.randn(x.shape, generator=generator))
    return x, noise, torch.ones(len(t), 1, 4, 8, dtype=torch.bool)


@pytest.mark.parametrize("target", ["x", "v"])
def test_flow_loss_is_zero_at_the_clean_signal(target: str) -> None:
    x, noise, valid = flow_case([0.1, 0.5, 0.9, 0.99])
    said = x if target == "x" else x - 1.5 * noise.e_NCHW
    loss = flow_loss(said, x, noise, valid, small_config(target=target), noise_scale=1.5)
    assert float(loss.sum) < 1e-8
    assert float(loss.count) == x.numel()


def test_flow_loss_is_the_squared_error_of_velocity() -> None:
    x, noise, valid = flow_case([0.1, 0.5, 0.9])
    said = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    z = add_noise(x, noise, 1.5)
    wanted, given = x - 1.5 * noise.e_NCHW, velocity(said, z, noise.t_N)
    as_x = flow_loss(said, x, noise, valid, small_config(), noise_scale=1.5)
    torch.testing.assert_close(as_x.sum, (given - wanted).square().sum(), rtol=1e-4, atol=1e-3)
    as_v = flow_loss(given, x, noise, valid, small_config(target="v"), noise_scale=1.5)
    torch.testing.assert_close(as_v.sum, as_x.sum, rtol=1e-4, atol=1e-3)


def test_flow_loss_is_clamped_near_the_signal() -> None:
    x, noise, valid = flow_case([0.999])
    loss = flow_loss(x + 1, x, noise, valid, small_config(), noise_scale=1.0)
    assert float(loss.sum / loss.count) == pytest.approx(1 / MIN_ONE_MINUS_T**2, rel=1e-5)


def test_flow_loss_does_not_count_padding() -> None:
    x, noise, valid = flow_case([0.3, 0.6])
    valid[0, :, :, 4:] = False
    said = x.clone()
    said[0, :, :, 4:] += 100
    loss = flow_loss(said, x, noise, valid, small_config(), noise_scale=1.0)
    assert float(loss.sum) == 0
    assert float(loss.count) == 3 * 4 * 8 + 3 * 4 * 4


@pytest.mark.parametrize("t", [0.0, 0.3, 0.97])
def test_targets_agree(t: float) -> None:
    """``to_clean`` of the true velocity is the signal; ``velocity`` of the signal is the true velocity."""
    x, e = torch.randn(2, 1, 3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    noise = Noise(torch.tensor([t], dtype=torch.float64), e)
    z, v = add_noise(x, noise, 2.0), x - 2.0 * e
    torch.testing.assert_close(to_clean(v, z, noise.t_N, "v"), x)
    torch.testing.assert_close(velocity(to_clean(x, z, noise.t_N, "x"), z, noise.t_N), v)


@pytest.mark.parametrize(("mu", "std"), [(-0.8, 0.8), (-1.0, 1.2)])
def test_noise_is_drawn_as_stated(mu: float, std: float) -> None:
    import dataclasses

    config = small_config()
    config.modalities["image"] = dataclasses.replace(config.modalities["image"], noise_mu=mu, noise_std=std)
    every = [Document([medium("image", (4, 4), 0, noisy=True)])] * 600
    batch = pack_documents(every, config, row_length=160)
    noise = draw_noise(batch, config, torch.Generator().manual_seed(0))["image"]
    level = torch.logit(noise.t_N)
    assert float(level.mean()) == pytest.approx(mu, abs=0.12)
    assert float(level.std()) == pytest.approx(std, abs=0.1)
    assert float(noise.e_NCHW.std()) == pytest.approx(1, abs=0.01)
    again = draw_noise(batch, config, torch.Generator().manual_seed(0))["image"]
    assert torch.equal(noise.e_NCHW, again.e_NCHW)
    assert torch.equal(noise.t_N, again.t_N)


@pytest.mark.parametrize("target", ["x", "v"])
def test_flow_loss_of_a_model_is_that_of_its_prediction(target: str) -> None:
    """A fresh model that copies nothing predicts zero for every patch, so its loss is known without running it."""
    config = small_config(target=target)
    model = Sensorium(config)
    if target == "x":
        torch.nn.init.constant_(model.media_heads["image"].gate.bias, -40.0)  # type: ignore[union-attr, arg-type]
    batch = pack_documents(documents(), config, row_length=100)
    noise = noise_for(batch, config)
    losses = compute_losses(model, batch, noise)
    for name, modality in config.modalities.items():
        media = batch.targets[name]
        expected, count = 0.0, 0
        for n, (h, w) in enumerate(media.grids_N2.tolist()):
            x = media.arrays_NCHW[n, :, : h * modality.patch[0], : w * modality.patch[1]]
            e = noise[name].e_NCHW[n, :, : x.shape[1], : x.shape[2]]
            t = float(noise[name].t_N[n])
            error = -x / (1 - t) if target == "x" else -(x - modality.noise_scale * e)
            expected += float(error.square().sum())
            count += x.numel()
        assert float(losses[f"flow_{name}"].sum) == pytest.approx(expected, rel=1e-4)
        assert float(losses[f"flow_{name}"].count) == count


@pytest.mark.parametrize("text_average", ["token", "root"])
def test_gradients_do_not_depend_on_micro_batches(text_average: str) -> None:
    """Sums over global counts: one batch, or two of unequal size, give the same gradient (pairs apart)."""
    model = random_model(small_config())
    every = documents()
    names = ("text", "z", "flow_image", "flow_audio")

    def gradients(parts: list[list[Document]]) -> list[torch.Tensor]:
        model.zero_grad()
        batches = [pack_documents(part, model.config, row_length=80) for part in parts]
        losses = [
            compute_losses(model, b, noise_for(b, model.config), text_average=text_average) for b in batches
        ]
        counts = {name: sum(loss[name].count for loss in losses) for name in names}
        for loss in losses:
            sum(loss[name].sum / counts[name] for name in names).backward()  # type: ignore[union-attr]
        return [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in model.parameters()]

    whole = gradients([every])
    for split in ([every[:2], every[2:]], [every[6:], every[:6]], [[d] for d in every]):
        for (name, _), a, b in zip(model.named_parameters(), whole, gradients(split), strict=True):
            torch.testing.assert_close(a, b, atol=2e-5, rtol=2e-3, msg=lambda m, name=name: f"{name}: {m}")
    means = gradients([every[:2]])
    assert not all(torch.allclose(a, b, rtol=1e-2) for a, b in zip(whole, means, strict=True))


def test_total_is_the_weighted_sum_of_means() -> None:
    model = random_model(small_config())
    batch = pack_documents(documents(), model.config, row_length=80)
    losses = compute_losses(model, batch, noise_for(batch, model.config))
    config = TrainConfig(w_text=0.7, w_flow=1.3, w_align=0.2, z_loss=0.01)
    total, means = total_loss(losses, config)
    expected = 0.7 * means["text"] + 1.3 * (means["flow_image"] + means["flow_audio"]) + 0.2 * means["align"]
    torch.testing.assert_close(total, expected + 0.01 * means["z"])
    for name, mean in means.items():
        assert losses[name].count > 0
        torch.testing.assert_close(mean, losses[name].sum / losses[name].count)


LACKING = {
    "text only": [6],
    "no audio": [0, 1],
    "no image": [2, 3],
    "no target": [0, 2, 5],
    "no pair": [4],
    "nothing supervised": [1],
}


@pytest.mark.parametrize("chosen", LACKING.values(), ids=LACKING)
@pytest.mark.parametrize(
    "changes", [{}, {"experts": "ffn", "align_loss": "sigmoid", "tie_embeddings": False}], ids=str
)
def test_every_parameter_gets_a_gradient_in_every_batch(chosen: list[int], changes: dict[str, str]) -> None:
    """A rank whose batch lacks a modality must take part in every reduction, and momentum decays alike."""
    model = random_model(small_config(**changes))  # type: ignore[arg-type]
    batch = pack_documents([documents()[i] for i in chosen], model.config)
    total, _ = total_loss(compute_losses(model, batch, noise_for(batch, model.config)), TrainConfig())
    total.backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name


def test_a_model_without_modalities_trains() -> None:
    model = random_model(small_config(modalities={}))
    batch = pack_documents([Document([text("words", supervised=True)])], model.config)
    total, means = total_loss(compute_losses(model, batch, {}), TrainConfig())
    total.backward()
    assert set(means) == {"text", "z", "align"}
