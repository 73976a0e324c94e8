"""A transcript by beam search: several beginnings are followed side by side, and what fits ear and language best wins.

One token after another, the spelling would take any token that begins as the sound does, and the trunk has learned
nothing of words in such pieces; side by side, the pieces that it knows win.
"""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor

from sensorium.generate.reading import Reader
from sensorium.generate.sequences import TokenSequence
from sensorium.generate.spelling import Spelled, followed, log_probs
from sensorium.model.kv_cache import KVCache


@dataclass
class _Beam:
    """A beginning: its tokens, what the trunk gives for it, its place in the cache, what the encoder spells behind it."""

    token_ids: list[int]
    expected: float
    sequence: TokenSequence
    spelled: Spelled


def search(
    reader: Reader,
    prompt: TokenSequence,
    spelled: Spelled,
    allowed_V: Tensor,
    *,
    num_beams: int,
    max_tokens: int,
    weight: float,
) -> list[int]:
    """The tokens of the best transcript found, without its end; ``max_tokens`` of them where it goes on behind them.

    Args:
        reader: of the engine; it is not touched, but what it knows of media is used.
        prompt: read anew. spelled: has heard the sound.
        allowed_V: bool, tokens of text and the end.
        weight: of the spelling beside the trunk, as in ``TextOptions.spelling``.
    """
    model = reader.model
    longest = prompt.total + max_tokens
    cache = KVCache(
        model.config.num_layers, max_tokens=4 * (2 * num_beams + 1) * longest, device=reader.device
    )
    ours = Reader(model, reader.runtime, cache, reader.features)
    root = _fork(prompt)
    root.num_read, root.row = 0, cache.add_row()
    ours.read([(root, root.total)])
    # Two banks of rows: those of one step are copied from those of the step before.
    banks = [[cache.add_row() for _ in range(num_beams)] for _ in range(2)]
    beams, best, best_score = [_Beam([], 0.0, root, spelled)], list[int](), -torch.inf
    heard_before = spelled.log_prob
    for step in range(max_tokens):
        expected_BV = ours.logits([beam.sequence for beam in beams]).masked_fill(~allowed_V, -torch.inf)
        # Masked again: nothing times -inf is not a number.
        expected_BV = (expected_BV.log_softmax(-1) * (1 - weight)).masked_fill(~allowed_V, -torch.inf)
        expected_BV += torch.tensor([[beam.expected] for beam in beams], device=expected_BV.device)
        heard_B1 = torch.tensor([[beam.spelled.log_prob - heard_before] for beam in beams])
        worth_BV = expected_BV.cpu().double() + weight * heard_B1
        heard_BV = heard_B1 + log_probs([beam.spelled for beam in beams], worth_BV, weight, 2 * num_beams)
        scores_BV = expected_BV + weight * heard_BV.to(expected_BV.device)
        ends_B, ended = scores_BV[:, spelled.end].max(dim=0)
        if float(ends_B) > best_score:
            best, best_score = beams[int(ended)].token_ids, float(ends_B)
        scores_BV[:, spelled.end] = -torch.inf
        grown: list[tuple[float, int, _Beam]] = []
        likely = scores_BV.flatten().topk(min(2 * num_beams, scores_BV.shape[1])).indices.tolist()
        places = [divmod(at, scores_BV.shape[1]) for at in likely]
        spelled_behind = followed(
            [beams[number].spelled for number, _ in places], [token for _, token in places]
        )
        for (number, token), behind in zip(places, spelled_behind, strict=True):
            expected = float(expected_BV[number, token])
            # Unlikely tokens are told to be as likely as the least likely that is followed: this is the true score.
            score = expected + weight * (behind.log_prob - heard_before)
            sequence = _fork(beams[number].sequence)
            sequence.append_token(token)
            token_ids = [*beams[number].token_ids, token]
            # A text only gets less likely as it grows.
            if score > best_score:
                grown.append((score, number, _Beam(token_ids, expected, sequence, behind)))
        if not grown:
            return best
        grown = sorted(grown, key=lambda item: -item[0])[:num_beams]
        for row, (_, number, beam) in zip(banks[step % 2], grown, strict=False):
            source = beams[number].sequence
            assert source.row is not None
            cache.copy_prefix(source.row, row, source.num_read)
            beam.sequence.row = row
        beams = [beam for _, _, beam in grown]
        ours.read([(beam.sequence, 1) for beam in beams])
    # There is no room for the rest: what goes on fits better than all that has ended.
    return beams[0].token_ids


def _fork(sequence: TokenSequence) -> TokenSequence:
    forked = copy.copy(sequence)
    forked.table = sequence.table.copy()
    return forked
