"""The trained weights as a file that numpy alone can read: fp16 arrays and the model's shape; a checksum beside it."""

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True, slots=True)
class Shape:
    """The model's dimensions."""

    vocabulary: int
    width: int
    layers: int
    heads: int


def write_weights(state: dict[str, Any], shape: Shape, folder: Path) -> None:
    """`weights.npz` and `weights.sha256`; `state`: PyTorch tensors by name. The same state gives the same bytes."""
    arrays = {name: tensor.detach().cpu().numpy().astype(np.float16) for name, tensor in state.items()}
    sizes = {f"shape.{name}": np.array(size, np.int64) for name, size in asdict(shape).items()}
    np.savez(folder / "weights.npz", **arrays, **sizes)
    digest = hashlib.sha256((folder / "weights.npz").read_bytes()).hexdigest()
    (folder / "weights.sha256").write_text(f"{digest}  weights.npz\n")
