"""The weights file: read once, and only when it is the file that was trained."""

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer's matrices. W is the model's width; every gain of a norm is already multiplied into what follows it."""

    qkv: Floats
    """[W, 3 W]: queries (scaled by 1 / sqrt(head width)), keys and values of all heads."""
    out: Floats
    """[W, W]"""
    up: Floats
    """[W, 4 W]"""
    down: Floats
    """[4 W, W]"""


@dataclass(frozen=True, slots=True)
class Weights:
    """The whole model in float32."""

    heads: int
    embedding: Floats
    """[vocabulary, W]"""
    head: Floats
    """[W, vocabulary]: the embedding again, with the last norm's gain."""
    layers: tuple[Layer, ...]

    @property
    def width(self) -> int:
        """W."""
        return int(self.embedding.shape[1])


def read_weights(folder: Path) -> Weights:
    """`weights.npz` in `folder`. Raises ValueError when it is not what `weights.sha256` says."""
    data = (folder / "weights.npz").read_bytes()
    told = (folder / "weights.sha256").read_text().split()[0]
    if hashlib.sha256(data).hexdigest() != told:
        raise ValueError("weights.npz is not the file that weights.sha256 names: fetch it again, or train again")
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        return _assembled({name: file[name] for name in file.files})


def _assembled(arrays: dict[str, npt.NDArray[np.generic]]) -> Weights:
    floats = {name: array.astype(np.float32) for name, array in arrays.items()}
    heads, layers = int(floats["shape.heads"]), int(floats["shape.layers"])
    embedding = floats["embedding"]
    return Weights(
        heads,
        embedding,
        np.ascontiguousarray((embedding * floats["norm"]).T),
        tuple(_layer(floats, f"blocks.{index}.", embedding.shape[1] // heads) for index in range(layers)),
    )


def _layer(floats: dict[str, Floats], prefix: str, head_width: int) -> Layer:
    qkv = floats[prefix + "norm_attention"][:, None] * floats[prefix + "qkv"]
    qkv[:, : len(qkv)] /= np.float32(head_width**0.5)
    up = floats[prefix + "norm_feed"][:, None] * floats[prefix + "up"]
    return Layer(qkv, floats[prefix + "out"], up, floats[prefix + "down"])
