"""The training loop: batches of like length, Muon and AdamW, warm-up and decay. The same seed gives the same steps."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random

import torch
from torch import Tensor
from torch.nn import functional

from .corpus import Example
from .muon import Muon
from .transformer import Transformer

CONTEXT = 2048
BATCH_TOKENS = 2500
MATRIX_RATE = 0.015
"""Of Muon, for the matrices of the blocks."""
OTHER_RATE = 4e-3
"""Of AdamW, for the embedding and the gains."""
WARM_UP_STEPS = 50


@dataclass(frozen=True, slots=True)
class Batch:
    """Padded rows: tokens and positions [rows, length], weights [rows, length - 1] for the tokens after the first."""

    tokens: Tensor
    positions: Tensor
    weights: Tensor


def learn(
    model: Transformer, examples: Sequence[Example], steps: int, random: Random, told: Callable[[int, str], None]
) -> None:
    """Train in place. `told` hears of progress every 50 steps."""
    device = next(model.parameters()).device
    matrices = [p for p in model.blocks.parameters() if p.dim() > 1]
    others = [p for p in model.parameters() if not any(p is matrix for matrix in matrices)]
    muon = Muon(matrices, lr=MATRIX_RATE)
    adam = torch.optim.AdamW(others, lr=OTHER_RATE, betas=(0.9, 0.98), weight_decay=0.0)
    began, seen, total = time.monotonic(), 0, 0.0
    for step, batch in zip(range(steps), batches(examples, random), strict=False):
        share = _share(step, steps)
        muon.param_groups[0]["lr"], adam.param_groups[0]["lr"] = MATRIX_RATE * share, OTHER_RATE * share
        loss = _loss(model, batch, device)
        model.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        muon.step()
        adam.step()
        seen += batch.tokens.numel()
        total += loss.item()
        if (step + 1) % 50 == 0:
            pace = seen / (time.monotonic() - began)
            told(step + 1, f"step {step + 1}/{steps} loss {total / 50:.3f} {pace:.0f} tokens/s")
            total = 0.0


def batches(examples: Sequence[Example], random: Random) -> Iterator[Batch]:
    """Batches without end; each round through the examples in another order, rows of like length together."""
    while True:
        order = list(range(len(examples)))
        random.shuffle(order)
        grouped: list[list[Example]] = []
        for start in range(0, len(order), 4096):
            chunk = sorted((examples[i] for i in order[start : start + 4096]), key=lambda one: len(one.ids))
            rows: list[Example] = []
            for example in chunk:
                if rows and (len(rows) + 1) * len(example.ids) > BATCH_TOKENS:
                    grouped.append(rows)
                    rows = []
                rows.append(example)
            grouped.append(rows)
        random.shuffle(grouped)
        for rows in grouped:
            yield _batch(rows, random)


def _batch(rows: Sequence[Example], random: Random) -> Batch:
    length = max(len(row.ids) for row in rows)
    tokens = torch.zeros(len(rows), length, dtype=torch.long)
    weights = torch.zeros(len(rows), length - 1)
    positions = torch.arange(length).repeat(len(rows), 1)
    for index, row in enumerate(rows):
        tokens[index, : len(row.ids)] = torch.tensor(row.ids)
        weights[index, : len(row.ids) - 1] = torch.tensor(row.learnt[1:], dtype=torch.float32)
        if random.random() < 0.3:
            # A gap in the positions: distances that occur only in long chats are met without paying for their length.
            positions[index, random.randrange(length) :] += random.randrange(CONTEXT - length)
    return Batch(tokens, positions, weights)


def _loss(model: Transformer, batch: Batch, device: torch.device) -> Tensor:
    tokens, weights = batch.tokens.to(device), batch.weights.to(device)
    states = model(tokens[:, :-1], batch.positions[:, :-1].to(device))
    learnt = weights > 0
    return functional.cross_entropy(model.logits(states[learnt]), tokens[:, 1:][learnt])


def _share(step: int, steps: int) -> float:
    """Of the peak rate: up in a few steps, then down along a cosine."""
    if step < WARM_UP_STEPS:
        return (step + 1) / WARM_UP_STEPS
    done = (step - WARM_UP_STEPS) / max(1, steps - WARM_UP_STEPS)
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done))
