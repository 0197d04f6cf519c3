"""The demo model for training: the same arithmetic as tinyllm/transformer.py, in PyTorch.

Pre-norm decoder with RMSNorm, rotary positions, squared ReLU and tied embeddings; no biases.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

EPSILON = 1e-5
ROPE_BASE = 10000.0


class Block(nn.Module):
    """One layer: attention, then a feed-forward network, each added to what came in."""

    def __init__(self, width: int, heads: int, layers: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention = nn.Parameter(torch.ones(width))
        self.norm_feed = nn.Parameter(torch.ones(width))
        self.qkv = nn.Parameter(torch.randn(width, 3 * width) * 0.02)
        self.out = nn.Parameter(torch.randn(width, width) * 0.02 / (2 * layers) ** 0.5)
        self.up = nn.Parameter(torch.randn(width, 4 * width) * 0.02)
        self.down = nn.Parameter(torch.randn(4 * width, width) * 0.02 / (2 * layers) ** 0.5)

    def forward(self, x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        """x is [rows, length, width]; cosine and sine are [rows, 1, length, head_width / 2]."""
        rows, length, width = x.shape
        mixed = (_norm(x, self.norm_attention) @ self.qkv).view(rows, length, 3, self.heads, -1)
        query, key, value = mixed.permute(2, 0, 3, 1, 4)
        attended = functional.scaled_dot_product_attention(
            _rotated(query, cosine, sine), _rotated(key, cosine, sine), value, is_causal=True
        )
        x = x + attended.transpose(1, 2).reshape(rows, length, width) @ self.out
        return x + functional.relu(_norm(x, self.norm_feed) @ self.up).square() @ self.down


class Transformer(nn.Module):
    """The whole model."""

    def __init__(self, vocabulary: int, width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.head_width = width // heads
        self.embedding = nn.Parameter(torch.randn(vocabulary, width) * 0.02)
        self.blocks = nn.ModuleList([Block(width, heads, layers) for _ in range(layers)])
        self.norm = nn.Parameter(torch.ones(width))

    def forward(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """The last layer's normed states, [rows, length, width]; tokens and positions are [rows, length]."""
        steps = torch.arange(self.head_width // 2, device=tokens.device) / (self.head_width // 2)
        angles = positions[:, None, :, None] * ROPE_BASE**-steps
        cosine, sine = angles.cos(), angles.sin()
        x = self.embedding[tokens]
        for block in self.blocks:
            x = block(x, cosine, sine)
        return _norm(x, self.norm)

    def logits(self, states: Tensor) -> Tensor:
        """What the states say of the next token."""
        return states @ self.embedding.T


def _norm(x: Tensor, gain: Tensor) -> Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + EPSILON) * gain


def _rotated(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    first, second = x.chunk(2, -1)
    return torch.cat((first * cosine - second * sine, first * sine + second * cosine), -1)
