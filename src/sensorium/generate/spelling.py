"""Transcripts by two ears: the next token as the trunk expects it and as the sound's encoder has spelled it.

Joint decoding of Watanabe et al. (Hybrid CTC/attention, 2017; arXiv 1609.06773): connectionist temporal classification
says of every beginning of a text how likely the sound is to begin with it, and so which token may come next.
Shape legend: T times (several to a patch), M beginnings, V vocabulary.
"""

import copy
from collections.abc import Sequence
from functools import cached_property
from itertools import accumulate, zip_longest
from typing import NamedTuple

import torch
from torch import Tensor

_NEVER = -1e30  # logarithm of a probability of 0 that still can be subtracted
_FLOOR = -12.0  # no token is told to be less likely: beginnings below are not followed any further


class _Level(NamedTuple):
    """All beginnings of one length, in order: those of one parent are neighbours."""

    first_child_N: Tensor  # where those of each parent start, and at last where all end
    node_W: Tensor  # with which of them each of ``Vocabulary.words`` begins; M: it is shorter
    last_M: Tensor  # byte
    first_token_M: Tensor  # where the tokens that are spelled so start in ``tokens``
    tokens: Tensor


class Vocabulary:
    """The tokens as a tree of their bytes in lower case, as sounds are spelled.

    Args:
        token_bytes: of every token, nothing for control tokens.
    """

    def __init__(self, token_bytes: Sequence[bytes]) -> None:
        self.size = len(token_bytes)
        self.bytes = [_lower(data) for data in token_bytes]

    @cached_property
    def words(self) -> list[int]:
        """Tokens that spell something; byte 0, the blank, spells nothing."""
        return [token for token, data in enumerate(self.bytes) if data and 0 not in data]

    @cached_property
    def levels(self) -> list[_Level]:
        """Beginnings of one byte, of two, ..."""
        tokens: dict[bytes, list[int]] = {}
        for token in self.words:
            tokens.setdefault(self.bytes[token], []).append(token)
        words = [self.bytes[token] for token in self.words]
        levels, before = [], [b""]
        for length in range(1, max(map(len, tokens), default=0) + 1):
            here = sorted({data[:length] for data in tokens if len(data) >= length})
            number = {data: i for i, data in enumerate(before)}
            parents = torch.tensor([number[data[:-1]] for data in here])
            ends = [tokens.get(data, []) for data in here]
            place = {data: i for i, data in enumerate(here)}
            levels.append(
                _Level(
                    torch.searchsorted(parents, torch.arange(len(before) + 1)),
                    torch.tensor(
                        [place.get(word[:length].ljust(length, b"\0"), len(here)) for word in words]
                    ),
                    torch.tensor([data[-1] for data in here]),
                    torch.tensor([0, *accumulate(map(len, ends))]),
                    torch.tensor([token for found in ends for token in found], dtype=torch.int64),
                )
            )
            before = here
        return levels


class _Paths(NamedTuple):
    """Of M texts, up to each of T + 1 times: paths that end in the last byte, and in a blank behind it."""

    in_byte_MT: Tensor
    in_blank_MT: Tensor
    log_prob_M: Tensor  # of all texts that begin so
    last_M: Tensor  # byte; -1 in an empty text

    def pick(self, index_M: Tensor) -> "_Paths":
        return _Paths(*(part[index_M] for part in self))


class Spelled:
    """How likely a sound is to go on with each token, behind those that were accepted.

    Args:
        end: the id of the token that ends a text.
        said: tokens that a text begins with in any case.
    """

    def __init__(self, vocabulary: Vocabulary, end: int, said: Sequence[int] = ()) -> None:
        self.vocabulary, self.end, self.said = vocabulary, end, said
        self.has_heard = False

    def hear(self, log_probs_TB: Tensor) -> None:
        """Take what the encoder spells of the sound, ``[T, 256]``; byte 0 is the blank."""
        # Doubles on the CPU: sums of logarithms over all times are subtracted from each other.
        log_probs_TB = log_probs_TB.detach().cpu().double()
        start = log_probs_TB.new_zeros(1, log_probs_TB.shape[1])
        self._probs_TB = log_probs_TB.exp()
        self._log_probs_BT = log_probs_TB.T.contiguous()
        self._sums_BT = torch.cat([start, log_probs_TB.cumsum(0)]).T.contiguous()
        silent_1T = self._sums_BT[:1]
        self._paths = _Paths(
            torch.full_like(silent_1T, _NEVER), silent_1T, start.new_zeros(1), torch.tensor([-1])
        )
        self.has_heard = True
        for token in self.said:
            self.accept(token)

    @property
    def log_prob(self) -> float:
        """Of all texts that begin with what was accepted, given the sound."""
        return float(self._paths.log_prob_M[0])

    def log_probs(self) -> Tensor:
        """Float32 ``[V]``: of each token, given the text so far and the sound."""
        return log_probs([self])[0]

    def accept(self, token: int) -> None:
        """Go on behind a token."""
        self._paths = followed([self], [token])[0]._paths

    def _next(self, paths: _Paths) -> Tensor:
        """Log-probabilities ``[M, 256]`` of all texts that begin with each text and with each byte behind it."""
        either_MT = torch.logaddexp(paths.in_byte_MT, paths.in_blank_MT)[:, :-1]
        most_M1 = either_MT.amax(1, keepdim=True)
        out_MB = ((either_MT - most_M1).exp() @ self._probs_TB).log() + most_M1
        # The same byte twice needs a blank between.
        rows = (paths.last_M >= 0).nonzero()[:, 0]
        last = paths.last_M[rows]
        out_MB[rows, last] = (paths.in_blank_MT[rows, :-1] + self._log_probs_BT[last]).logsumexp(1)
        return out_MB.clamp_min(_NEVER)

    def _follow(self, paths: _Paths, bytes_M: Tensor, log_prob_M: Tensor) -> _Paths:
        """One more byte behind each text (Algorithm 2 of the paper, all times at once)."""
        again_M1 = (paths.last_M == bytes_M)[:, None]
        either_MT = torch.logaddexp(paths.in_byte_MT, paths.in_blank_MT)
        before_MT = torch.where(again_M1, paths.in_blank_MT, either_MT)[:, :-1]
        # A path stays in the byte, or in the blank behind it: a recurrence in time, solved by sums of logarithms.
        sums_MT, blanks_1T = self._sums_BT[bytes_M], self._sums_BT[:1]
        never_M1 = before_MT.new_full((len(bytes_M), 1), _NEVER)
        in_byte_MT = sums_MT[:, 1:] + (before_MT - sums_MT[:, :-1]).logcumsumexp(dim=1)
        in_byte_MT = torch.cat([never_M1, in_byte_MT], dim=1)
        in_blank_MT = blanks_1T[:, 1:] + (in_byte_MT[:, :-1] - blanks_1T[:, :-1]).logcumsumexp(dim=1)
        return _Paths(in_byte_MT, torch.cat([never_M1, in_blank_MT], dim=1), log_prob_M, bytes_M)


def followed(texts: Sequence[Spelled], tokens: Sequence[int]) -> list[Spelled]:
    """Each of several texts of one sound with its token behind it."""
    one = texts[0]
    spelled = [one.vocabulary.bytes[token] for token in tokens]
    paths = _paths_of(texts)
    for place in range(max(map(len, spelled))):
        rows = torch.tensor([row for row, data in enumerate(spelled) if len(data) > place])
        bytes_M = torch.tensor([data[place] for data in spelled if len(data) > place])
        old = paths.pick(rows)
        new = one._follow(old, bytes_M, one._next(old)[range(len(rows)), bytes_M])
        paths = _Paths(*(all_.index_copy(0, rows, part) for all_, part in zip(paths, new, strict=True)))
    out = []
    for row, text in enumerate(texts):
        behind = copy.copy(text)
        behind._paths = paths.pick(torch.tensor([row]))
        out.append(behind)
    return out


def log_probs(
    texts: Sequence[Spelled],
    worth_BV: Tensor | None = None,
    weight: float = 1.0,
    num_best: int | None = None,
) -> Tensor:
    """Float32 ``[texts, V]``: ``Spelled.log_probs`` of several texts of one sound and vocabulary.

    Args:
        worth_BV: what else counts for each token, double; -inf where it is not allowed.
        num_best: follow only beginnings whose tokens may be among so many with the greatest sums of their worth and
            ``weight`` times the spelling. The others are told to be as unlikely as a token can be.
    """
    one = texts[0]
    paths = _paths_of(texts)
    before_B = paths.log_prob_M
    out_BV = before_B.new_full((len(texts), one.vocabulary.size), _FLOOR)
    worth_BV = torch.zeros_like(out_BV) if worth_BV is None else worth_BV
    scores_BV = torch.full_like(out_BV, -torch.inf)
    whole_B = torch.logaddexp(paths.in_byte_MT[:, -1], paths.in_blank_MT[:, -1])
    # Of the beginnings that are followed: of which text, and which of their length.
    text_M, number_M = torch.arange(len(texts)), torch.zeros(len(texts), dtype=torch.int64)
    levels = one.vocabulary.levels
    for level, longer in zip_longest(levels, levels[1:]):
        parent, child = _expand(level.first_child_N, number_M)
        log_prob_M = one._next(paths)[parent, level.last_M[child]]
        text_M = text_M[parent]
        gained_M = log_prob_M - before_B[text_M]
        likely_M = gained_M > _FLOOR
        if num_best is not None:
            # A token is worth at most as much as the best that begins so; at the lowest, it is not allowed.
            reach_BM = worth_BV.new_full((len(texts), len(level.last_M) + 1), -torch.inf)
            words_BW = worth_BV[:, one.vocabulary.words]
            reach_BM.scatter_reduce_(1, level.node_W.expand(len(texts), -1), words_BW, "amax")
            worst = scores_BV.flatten().topk(min(num_best, scores_BV.numel())).values[-1]
            lowest = torch.finfo(worst.dtype).min
            likely_M &= reach_BM[text_M, child] + weight * gained_M >= worst.clamp_min(lowest)
        likely = likely_M.nonzero()[:, 0]
        parent, number_M, text_M = parent[likely], child[likely], text_M[likely]
        gained_M, log_prob_M = gained_M[likely], log_prob_M[likely]
        spelled, place = _expand(level.first_token_M, number_M)
        at = text_M[spelled], level.tokens[place]
        out_BV[at] = gained_M[spelled]
        scores_BV[at] = worth_BV[at] + weight * gained_M[spelled]
        if longer is None:
            break
        grows = (longer.first_child_N[number_M + 1] > longer.first_child_N[number_M]).nonzero()[:, 0]
        if not len(grows):
            break
        parent, number_M, text_M = parent[grows], number_M[grows], text_M[grows]
        paths = one._follow(paths.pick(parent), level.last_M[number_M], log_prob_M[grows])
    out_BV[:, one.end] = whole_B - before_B
    return out_BV.float()


def _paths_of(texts: Sequence[Spelled]) -> _Paths:
    return _Paths(*map(torch.cat, zip(*(text._paths for text in texts), strict=True)))


def _expand(first: Tensor, number_M: Tensor) -> tuple[Tensor, Tensor]:
    """All that belongs to each of some numbers: (index of the number, place)."""
    start_M = first[number_M]
    count_M = first[number_M + 1] - start_M
    owner = torch.repeat_interleave(torch.arange(len(number_M)), count_M)
    within = torch.arange(len(owner)) - (count_M.cumsum(0) - count_M)[owner]
    return owner, start_M[owner] + within


def _lower(data: bytes) -> bytes:
    try:
        return data.decode().lower().encode()
    except UnicodeDecodeError:  # a part of a character
        return data
