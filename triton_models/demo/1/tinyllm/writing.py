"""From logits to a piece of an answer: one token is chosen, written, counted, and may be the last."""

from typing import Protocol

import numpy as np

from .requests import Piece, Sequence, TokenLogprob, Told
from .sampling import Probabilities, choose, logprobs
from .weights import Floats


class Names(Protocol):
    """What is asked of a vocabulary here."""

    end: int

    def token_bytes(self, token: int) -> bytes: ...
    def name(self, token: int) -> str: ...


def advance(sequence: Sequence, logits: Floats, names: Names) -> Piece:
    """Choose the sequence's next token from `logits` [vocabulary] and write it; sets `finish` when it was the last."""
    parameters = sequence.request.parameters
    early = sequence.generated < parameters.min_tokens
    distribution = softmax(logits)
    banned = names.end if parameters.ignore_eos or early else None
    token = choose(distribution, parameters, sequence.counts, sequence.generator, banned)
    told = None
    if parameters.logprobs is not None:
        told = logprobs(distribution, token, parameters.logprobs)
    sequence.cumulative_logprob += float(np.log(distribution[token]))
    sequence.tokens.append(token)
    sequence.counts[token] += 1
    sequence.generated += 1
    text = _written(sequence, token, names)
    named: Told | None = None
    if told is not None:
        named = [{other: TokenLogprob(value, rank, names.name(other)) for other, (value, rank) in told.items()}]
    return Piece(text, 1, named, sequence.cumulative_logprob, sequence.finish)


def nothing(sequence: Sequence) -> Piece:
    """The piece of an output that did not move while others of its request did, as vLLM has it."""
    none: Told | None = None if sequence.request.parameters.logprobs is None else []
    return Piece("", 0, none, sequence.cumulative_logprob, sequence.finish)


def softmax(logits: Floats) -> Probabilities:
    """Probabilities in double precision, so that small ones keep their digits."""
    weights = np.exp(logits.astype(np.float64) - float(logits.max()))
    result: Probabilities = weights / weights.sum()
    return result


def _written(sequence: Sequence, token: int, names: Names) -> str:
    """The text that is certain now that this token has come; sets `finish`."""
    least = sequence.request.parameters.min_tokens
    text = sequence.text.feed(names.token_bytes(token), check_stop=sequence.generated >= least)
    if token == names.end or sequence.text.stopped:
        sequence.finish = "stop"
    elif sequence.generated >= sequence.request.most_tokens:
        sequence.finish = "length"
    return text + sequence.text.finish() if sequence.finish else text
