"""Answers that match a list of choices, a regular expression or a JSON schema (through ``llguidance``)."""

import json
import re
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sensorium.generate.requests import TextOptions
from sensorium.sequence.tokenizer import Tokenizer


class Grammar:
    """The state of one constrained answer.

    Raises:
        ValueError: the expression or schema is not valid.
        ModuleNotFoundError: the extra ``constrain`` is not installed.
    """

    def __init__(self, options: TextOptions, tokenizer: Tokenizer, num_ids: int) -> None:
        try:
            from llguidance import LLMatcher
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                "choices, regex and json_schema need llguidance; install it with pip install 'sensorium[constrain]'"
            ) from error
        if options.json_schema:
            # Compact JSON: a model may otherwise write space without end, which every schema allows.
            grammar = LLMatcher.grammar_from_json_schema(
                _checked_schema(options.json_schema), overrides={"whitespace_flexible": False}
            )
        elif options.regex:
            grammar = LLMatcher.grammar_from_regex(options.regex)
        else:
            grammar = LLMatcher.grammar_from_regex("|".join(re.escape(c) for c in options.choices))
        self._vocabulary, self._num_ids = _vocabulary(tokenizer), num_ids
        self._matcher = LLMatcher(self._vocabulary, grammar)
        self._check()

    def allowed(self) -> Tensor:
        """Bool ``[V]``: the tokens that may come next."""
        from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask

        bits = allocate_token_bitmask(1, self._vocabulary.vocab_size)
        fill_next_token_bitmask(self._matcher, bits)
        self._check()
        allowed = np.unpackbits(bits.view(np.uint8), bitorder="little")[: self._vocabulary.vocab_size]
        allowed_V = torch.zeros(self._num_ids, dtype=torch.bool)
        allowed_V[: len(allowed)] = torch.from_numpy(allowed).bool()
        return allowed_V

    def accept(self, token_id: int) -> bool:
        """Take the token that came; True where nothing may follow."""
        self._matcher.consume_token(token_id)
        self._check()
        return bool(self._matcher.is_stopped())

    def _check(self) -> None:
        if self._matcher.is_error():
            raise ValueError(f"the constraint cannot be used: {self._matcher.get_error()}")


def _checked_schema(schema: str) -> str:
    try:
        json.loads(schema)
    except json.JSONDecodeError as error:
        raise ValueError(f"json_schema is no JSON ({error}); give a schema as JSON") from error
    return schema


@lru_cache(maxsize=4)
def _vocabulary(tokenizer: Tokenizer) -> Any:
    """The vocabulary as llguidance reads it; control tokens have no bytes that an answer could hold."""
    from llguidance import LLTokenizer

    return LLTokenizer(tokenizer.backend.to_str(), n_vocab=tokenizer.vocab_size, eos_token=tokenizer.eos)
