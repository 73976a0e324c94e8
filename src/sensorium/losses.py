"""The losses of one forward pass. Each returns (sum, count), so that the caller divides by a *global* count.

Shape legend: B rows, T positions, D width, V vocabulary, P patches, N media items, M pairs, L latent width.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from sensorium.config import ModelConfig
from sensorium.model.flow import MIN_ONE_MINUS_T, Noise, add_noise, to_clean
from sensorium.model.sensorium import Sensorium
from sensorium.sequence.document import IGNORE
from sensorium.sequence.packing import Batch, MediaBatch, Spelled


class Loss(NamedTuple):
    """A sum over ``count`` supervised items; their ratio over all ranks and micro-batches is the loss.

    Args:
        parts: the sum by document, for logs (of ``flow_loss`` by item), without gradients; None where it is no sum
            over documents.
    """

    sum: Tensor
    count: Tensor  # type: ignore[assignment]  # hides tuple.count, which nobody needs
    parts: Tensor | None = None


# Latents of both sides of a batch's pairs, logit scale, logit bias -> the alignment loss. Its own batch is not all
# that a pair is contrasted with where a step has several.
Align = Callable[[Tensor, Tensor, Tensor, Tensor], Loss]


# How much each of n supervised tokens of a document counts: n to this power.
TEXT_AVERAGES = {"token": 0.0, "root": -0.5, "document": -1.0}


def count_items(batch: Batch, config: ModelConfig, text_average: str = "token") -> dict[str, float]:
    """The counts of ``compute_losses``, from the batch alone: they are added up over ranks before any backward."""
    weights = _label_weights(batch, text_average)
    counts = {"text": float(weights.sum()), "z": float(len(weights))}
    for name, modality in config.modalities.items():
        patches = float(batch.targets[name].num_patches_N.sum()) if name in batch.targets else 0.0
        counts[f"flow_{name}"] = patches * modality.patch_dim
    for name in _spelling(config):
        spelled = batch.spelled.get(name)
        counts[f"spell_{name}"] = float(spelled.num_letters_N.sum()) if spelled else 0.0
    counts["align"] = float(len(batch.emb_a_M) * (1 if config.align_loss == "sigmoid" else 2))
    return counts


def count_by_document(batch: Batch, config: ModelConfig) -> dict[str, Tensor]:
    """What ``count_items`` counts, by document: loss -> ``[documents]``."""
    supervised = batch.doc_id_BT[batch.labels_BT != IGNORE]
    counts = {"text": _by_document(torch.ones_like(supervised), supervised, batch)}
    for name, media in batch.targets.items():
        values_N = media.num_patches_N * config.modalities[name].patch_dim
        counts[f"flow_{name}"] = _by_document(values_N, _documents_of(media, batch), batch)
    for name, spelled in batch.spelled.items():
        counts[f"spell_{name}"] = _by_document(spelled.num_letters_N, _documents_of(spelled, batch), batch)
    return counts


def _label_weights(batch: Batch, text_average: str) -> Tensor:
    """What each supervised position counts."""
    document = batch.doc_id_BT[batch.labels_BT != IGNORE]
    num = _by_document(torch.ones_like(document, dtype=torch.float32), document, batch)
    return num[document] ** TEXT_AVERAGES[text_average]


def _by_document(values: Tensor, document: Tensor, batch: Batch) -> Tensor:
    """Sums of values by the document that each belongs to."""
    return values.new_zeros(len(batch.sample_ids)).index_add(0, document, values)


def _documents_of(media: MediaBatch | Spelled, batch: Batch) -> Tensor:
    """The document of each item ``[N]``."""
    first_N = media.num_patches_N.cumsum(0) - media.num_patches_N
    return batch.doc_id_BT.flatten()[media.token_index_P[first_N]]


def text_loss(
    model: Sensorium, hidden_BTD: Tensor, batch: Batch, text_average: str = "token"
) -> tuple[Loss, Loss]:
    """Next-token cross-entropy, and the z-loss ``log(Z)^2`` against drifting logits (arXiv 2204.02311).

    Only supervised positions reach the vocabulary projection. ``parts`` are sums over tokens, whatever each counts.
    """
    supervised_BT = batch.labels_BT != IGNORE
    labels = batch.labels_BT[supervised_BT]
    logits = model.logits(hidden_BTD[supervised_BT]).float()
    log_z = torch.logsumexp(logits, dim=-1)
    picked = logits.gather(1, labels[:, None])[:, 0]
    count = torch.tensor(float(len(labels)), device=hidden_BTD.device)
    losses, weights = log_z - picked, _label_weights(batch, text_average)
    parts = _by_document(losses.detach(), batch.doc_id_BT[supervised_BT], batch)
    return Loss((weights * losses).sum(), weights.sum(), parts), Loss(log_z.square().sum(), count)


def flow_loss(
    prediction_NCHW: Tensor,
    x_NCHW: Tensor,
    noise: Noise,
    valid_N1HW: Tensor,
    config: ModelConfig,
    *,
    noise_scale: float,
) -> Loss:
    """Velocity loss with clean-signal prediction: ``||x_hat - x||^2 / (1 - t)^2``, ``1 - t`` clamped at 0.05.

    Args:
        prediction_NCHW: the head's output for items at levels ``noise.t_N``.
        x_NCHW: the clean signal.
        valid_N1HW: bool, False where an item is padding.

    Returns:
        Sum over the values of all items, their number, and the sum by item.

    Source: JiT, arXiv 2511.13720, equations 4 to 6.
    """
    t_N = noise.t_N
    z_NCHW = add_noise(x_NCHW, noise, noise_scale)
    x_hat = to_clean(prediction_NCHW, z_NCHW, t_N, config.target)
    error = ((x_hat - x_NCHW) / (1 - t_N).clamp_min(MIN_ONE_MINUS_T)[:, None, None, None]).float().square()
    valid = valid_N1HW.expand_as(error)
    error = error * valid
    return Loss(error.sum(), valid.sum().float(), error.detach().flatten(1).sum(dim=1))


def align_loss(
    latents_a_ML: Tensor,
    latents_b_ML: Tensor,
    positives_MG: Tensor,
    logit_scale: Tensor,
    logit_bias: Tensor,
    kind: str,
    *,
    all_a_GL: Tensor | None = None,
    all_b_GL: Tensor | None = None,
) -> Loss:
    """Contrastive loss between the two sides of M pairs, which are anchors among G pairs.

    Args:
        latents_a_ML, latents_b_ML: unit vectors; row i of both is a pair.
        positives_MG: bool: which pairs belong together (a relation that is its own inverse, and of each pair with
            itself).
        logit_scale: logarithm of the scale. logit_bias: used by "sigmoid".
        kind: "softmax": cross-entropy in both directions against a target spread evenly over the positives
            (CLIP, arXiv 2103.00020; several positives as in UniCL, arXiv 2204.03610). "sigmoid": one binary
            decision per cell (SigLIP, arXiv 2303.15343).
        all_a_GL, all_b_GL: both sides of all pairs where there are more than these; the sums of all parts add up.

    Returns:
        Sum over 2M anchors ("softmax") or over M anchors ("sigmoid"), and that number.
    """
    all_a_GL = latents_a_ML if all_a_GL is None else all_a_GL
    all_b_GL = latents_b_ML if all_b_GL is None else all_b_GL
    M = len(latents_a_ML)
    # Logits up to 100 in half precision would be off by a quarter.
    with torch.autocast(latents_a_ML.device.type, enabled=False):
        # CLIP's ceiling: a scale over 100 makes training unstable.
        scale = logit_scale.exp().clamp(max=100.0)
        logits_MG = scale * latents_a_ML @ all_b_GL.T + logit_bias
        if kind == "sigmoid":
            sign = positives_MG.float() * 2 - 1
            total = -F.logsigmoid(sign * logits_MG).sum()
            return Loss(total, torch.tensor(float(M), device=logits_MG.device))
        back_MG = scale * latents_b_ML @ all_a_GL.T + logit_bias
        target = positives_MG.float() / positives_MG.float().sum(dim=1, keepdim=True).clamp_min(1)
        total = -(target * logits_MG.log_softmax(dim=1)).sum() - (target * back_MG.log_softmax(dim=1)).sum()
    return Loss(total, torch.tensor(2.0 * M, device=logits_MG.device))


def compute_losses(
    model: Sensorium,
    batch: Batch,
    noise: dict[str, Noise],
    align: Align | None = None,
    text_average: str = "token",
    *,
    encoders_only: bool = False,
) -> dict[str, Loss]:
    """One forward pass and all its losses: ``text``, ``z``, ``align``, ``flow_<modality>`` and ``spell_<modality>``.

    Every entry is there in every step, with count 0 where the batch has nothing for it.

    Args:
        align: the alignment loss where pairs of other batches take part in it.
        text_average: see ``TrainConfig``.
        encoders_only: leave the trunk out: nothing but spelling has a loss.
    """
    hidden_BTD = model(batch, noise, batch.read_R, encoders_only=encoders_only)
    config = model.config
    losses: dict[str, Loss] = {}
    text, losses["z"] = text_loss(model, hidden_BTD, batch, text_average)
    losses["text"] = text._replace(sum=text.sum + touch_unused(model, batch, encoders_only=encoders_only))
    flat_hidden = hidden_BTD.flatten(0, 1)
    for name, modality in config.modalities.items():
        if name not in batch.targets:
            zero = hidden_BTD.new_zeros(())
            losses[f"flow_{name}"] = Loss(zero, zero)
            continue
        media = batch.targets[name]
        prediction = model.predict(name, flat_hidden[media.token_index_P], media)
        rows = torch.arange(prediction.shape[2], device=prediction.device)
        cols = torch.arange(prediction.shape[3], device=prediction.device)
        size_N2 = media.grids_N2 * torch.tensor(modality.patch, device=prediction.device)
        valid = (rows[None, :, None] < size_N2[:, 0, None, None]) & (
            cols[None, None, :] < size_N2[:, 1, None, None]
        )
        loss = flow_loss(
            prediction,
            media.arrays_NCHW,
            noise[name],
            valid[:, None],
            config,
            noise_scale=modality.noise_scale,
        )
        assert loss.parts is not None
        parts = _by_document(loss.parts, _documents_of(media, batch), batch)
        losses[f"flow_{name}"] = loss._replace(parts=parts)
    for name in _spelling(config):
        losses[f"spell_{name}"] = spelling_loss(model, name, flat_hidden, batch)
    latents = pair_latents(model, hidden_BTD, batch)
    if align is not None:
        losses["align"] = align(*latents, model.logit_scale, model.logit_bias)
    else:
        losses["align"] = align_loss(
            *latents, batch.positives_MM, model.logit_scale, model.logit_bias, config.align_loss
        )
    return losses


def spelling_loss(model: Sensorium, name: str, flat_hidden: Tensor, batch: Batch) -> Loss:
    """Connectionist temporal classification of what is said (Graves et al., 2006), and the number of its bytes.

    A transcript alone has to find out where in the sound each word is and what it sounds like, both at once, and does
    not within a small budget: this loss finds them by itself (arXiv 1609.06773). It asks for bytes, so that any language
    can be spelled, and for several in a patch, because speech has more letters than a sound has tokens.
    """
    spelled = batch.spelled.get(name)
    if spelled is None:
        zero = flat_hidden.new_zeros(())
        return Loss(zero, zero)
    times = model.config.modalities[name].spelled_per_patch
    logits = model.spell(name, flat_hidden[spelled.token_index_P]).float()
    lengths_N = spelled.num_patches_N * times
    padded = pad_sequence(logits.log_softmax(dim=-1).split(lengths_N.tolist()))
    losses_N = F.ctc_loss(padded, spelled.letters_S, lengths_N, spelled.num_letters_N, reduction="none")
    parts = _by_document(losses_N.detach(), _documents_of(spelled, batch), batch)
    return Loss(losses_N.sum(), spelled.num_letters_N.sum().float(), parts)


def _spelling(config: ModelConfig) -> list[str]:
    """The modalities whose words are spelled."""
    return [name for name, modality in config.modalities.items() if modality.spelled_per_patch]


def pair_latents(model: Sensorium, hidden_BTD: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """Both sides of a batch's pairs, unit vectors ``[M, L]``."""
    flat_hidden = hidden_BTD.flatten(0, 1)
    return model.latents(flat_hidden[batch.emb_a_M]), model.latents(flat_hidden[batch.emb_b_M])


def touch_unused(model: Sensorium, batch: Batch, *, encoders_only: bool = False) -> Tensor:
    """A zero that depends on the parameters of encoders and heads that the batch has no media for.

    Without the trunk, an encoder is unused too where nothing of its media is spelled.

    Every parameter then has a gradient in every step: a rank without a modality never hangs the others, and
    the optimiser treats a parameter alike whatever a batch happens to hold.
    """
    read = batch.spelled if encoders_only else batch.context
    modules = [encoder for name, encoder in model.encoders.items() if name not in read]
    modules += [head for name, head in model.media_heads.items() if name not in batch.targets]
    modules += [speller for name, speller in model.spellers.items() if name not in batch.spelled]
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
    return sum((p.flatten()[0] for p in parameters), model.logit_scale.new_zeros(())) * 0.0
