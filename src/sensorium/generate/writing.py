"""An answer in words: which token comes next, when it ends, and which of its text is settled."""

import codecs
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from sensorium.generate.requests import FinishReason, TextOptions, TokenLogprob
from sensorium.generate.sampling import penalize, sample_token
from sensorium.generate.spelling import Spelled
from sensorium.sequence.tokenizer import Tokenizer


class Constraint(Protocol):
    """What an answer must match."""

    def allowed(self) -> Tensor:
        """Bool ``[V]``: the tokens that may come next."""

    def accept(self, token_id: int) -> bool:
        """Take the token that came; True where nothing may follow."""


class TextStream:
    """Bytes of tokens -> text in pieces that never change again.

    A piece never holds half a character, space that may prove to be the last, or what may become a stop string.
    The pieces together are the whole answer, without space around it and cut before the first stop string.
    """

    def __init__(self, stop: Sequence[str] = ()) -> None:
        self.stop = tuple(stop)
        self.stopped = False
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._text = ""
        self._sent = 0

    def add(self, data: bytes, *, last: bool = False) -> str:
        """Take bytes in; return the piece that is settled by them. ``last``: nothing follows."""
        overlap = max((len(s) for s in self.stop), default=1) - 1
        searched = max(0, len(self._text) - overlap)
        self._text += self._decoder.decode(data, last)
        found = [(at + len(s), at) for s in self.stop if (at := self._text.find(s, searched)) >= 0]
        if found:  # the first that is complete, whatever the tokens
            self._text, self.stopped = self._text[: min(found)[1]], True
        end = len(self._text)
        if not (last or self.stopped):
            end -= self._held()
        if not self._text[: self._sent].strip():  # nothing but space so far
            self._sent = end - len(self._text[:end].lstrip())
        end = max(self._sent, len(self._text[:end].rstrip()))
        piece, self._sent = self._text[self._sent : end], end
        return piece

    def _held(self) -> int:
        """Length of the longest end of the text that begins a stop string."""
        longest = min(max((len(s) for s in self.stop), default=1) - 1, len(self._text))
        for size in range(longest, 0, -1):
            if any(s.startswith(self._text[-size:]) for s in self.stop):
                return size
        return 0


class Writer:
    """Chooses the tokens of one answer.

    Args:
        options: see there. seed: of this answer.
        token_bytes: bytes of every token, nothing for control tokens.
        allowed_V: bool, tokens of text and whatever else may come in this answer.
        read: ids of the prompt's text, for the repetition penalty.
        spelled: what the sound's encoder says of the next token, in a transcript.
    """

    def __init__(
        self,
        options: TextOptions,
        seed: int,
        tokenizer: Tokenizer,
        token_bytes: Sequence[bytes],
        allowed_V: Tensor,
        read: Sequence[int] = (),
        constraint: Constraint | None = None,
        spelled: Spelled | None = None,
    ) -> None:
        self.options, self.token_bytes, self.constraint = options, token_bytes, constraint
        self.spelled = spelled
        self.ends = {tokenizer.eos, *options.stop_tokens}
        self.allowed_V = allowed_V
        self.generator = torch.Generator().manual_seed(seed)
        self.stream = TextStream(options.stop)
        self.num_tokens = 0
        self.stop_token: int | None = None  # that ended the answer; it is no part of it
        self.stop_logprob: float | None = None
        self.seen_V: Tensor | None = None
        if options.repetition_penalty != 1:
            self.seen_V = torch.zeros_like(allowed_V)
            self.seen_V[list(read)] = True
        # Since the last piece.
        self.token_ids: list[int] = []
        self.logprobs: list[TokenLogprob] = []

    @property
    def searches(self) -> bool:
        """Whether its transcript is searched as a whole."""
        options = self.options
        plain = options.temperature == 0 and options.repetition_penalty == 1 and options.logprobs is None
        # A control token that may end the answer spells nothing: a search would take it for free.
        plain = plain and self.constraint is None and not options.stop_tokens
        return self.spelled is not None and options.num_beams > 1 and plain

    def choose(self, logits_V: Tensor) -> int:
        """The next token."""
        options = self.options
        logits_V = logits_V.masked_fill(~self.allowed_V, -torch.inf)
        raw_V = logits_V
        if self.seen_V is not None:
            logits_V = penalize(logits_V, self.seen_V, options.repetition_penalty)
        if self.spelled is not None:
            heard_V = self.spelled.log_probs().to(logits_V.device)
            logits_V = torch.lerp(logits_V.log_softmax(0), heard_V, options.spelling)
            logits_V = logits_V.masked_fill(~self.allowed_V, -torch.inf)
        if self.constraint is not None:
            logits_V = logits_V.masked_fill(~self.constraint.allowed().to(logits_V.device), -torch.inf)
        token = sample_token(
            logits_V,
            temperature=options.temperature,
            top_p=options.top_p,
            top_k=options.top_k,
            min_p=options.min_p,
            generator=self.generator,
        )
        if options.logprobs is not None:
            logprobs_V = raw_V.log_softmax(0)
            values, ids = logprobs_V.topk(min(options.logprobs, len(logprobs_V)))
            top = tuple(zip(ids.tolist(), values.tolist(), strict=True))
            self.logprobs.append(TokenLogprob(token, float(logprobs_V[token]), top))
        return token

    def accept(self, token: int) -> tuple[str, FinishReason | None]:
        """Take a token into the answer; return the text that is settled by it, and why the answer ends with it."""
        complete = self.constraint is not None and self.constraint.accept(token)
        if token in self.ends:
            self.stop_token = token
            if len(self.logprobs) > len(self.token_ids):
                self.stop_logprob = self.logprobs[-1].logprob
            self.logprobs = self.logprobs[: len(self.token_ids)]
            return self.stream.add(b"", last=True), "stop"
        self.num_tokens += 1
        self.token_ids.append(token)
        if self.spelled is not None:
            self.spelled.accept(token)
        if self.seen_V is not None:
            self.seen_V[token] = True
        full = self.num_tokens >= self.options.max_tokens
        piece = self.stream.add(self.token_bytes[token], last=full or complete)
        if self.stream.stopped or complete:
            return piece, "stop"
        return piece, "length" if full else None

    def open_medium(self) -> str:
        """The last choice opens a medium and is no token of the text; return the rest of the text before it."""
        self.logprobs = self.logprobs[: len(self.token_ids)]
        return self.flush()

    def flush(self) -> str:
        """The rest of the text, where something else than text follows."""
        piece = self.stream.add(b"", last=True)
        self.stream = TextStream(self.options.stop)
        return piece

    def take_tokens(self) -> tuple[tuple[int, ...], tuple[TokenLogprob, ...]]:
        """Tokens and log-probabilities since the last call."""
        out = tuple(self.token_ids), tuple(self.logprobs)
        self.token_ids, self.logprobs = [], []
        return out


def token_bytes(tokenizer: Tokenizer, vocab_size: int) -> list[bytes]:
    """Bytes of every token of a byte-level vocabulary; nothing for control tokens and ids that are not in it."""
    table = _byte_of_character()
    first_text = tokenizer.size_token(255) + 1
    out = [b""] * vocab_size
    for token_id in range(first_text, min(vocab_size, tokenizer.vocab_size)):
        written = tokenizer.backend.id_to_token(token_id) or ""
        out[token_id] = bytes(table[character] for character in written if character in table)
    return out


def _byte_of_character() -> dict[str, int]:
    """The printable stand-ins of byte-level BPE (GPT-2): bytes that print stand for themselves."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(b): b for b in printable} | {chr(256 + n): b for n, b in enumerate(others)}
