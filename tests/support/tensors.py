"""A house that serves text, embeddings and tensors: the demo's models beside those of lab/models."""

import shutil
from pathlib import Path

import yaml

from tests.support.stack import ROOT, slow_fleet

TOKEN_MS = 5
CONTEXT = 32
"""Tokens of a text that `demo-embed` reads here."""
CHARGE = {"request": 3, "element": 0.5}
"""Of `arithmetic`."""


def tensor_fleet(folder: Path) -> Path:
    """A copy of the demo's repository with the models for tests; its fleet file."""
    file = slow_fleet(folder, TOKEN_MS)
    for name in ("arithmetic", "repeat"):
        shutil.copytree(ROOT / "lab" / "models" / name, file.parent / name)
    fleet = yaml.safe_load(file.read_text())
    for model in fleet["tensor_models"]:
        model["context_tokens"] = CONTEXT
    for name, more in (
        ("arithmetic", {"charge": CHARGE, "outputs": ["sum", "words"]}),
        ("repeat", {"charge": {"request": 7, "element": 0}}),
    ):
        fleet["tensor_models"].append({"name": name, "triton": {"name": name}, "endpoints": ["embedded"], **more})
    file.write_text(yaml.safe_dump(fleet))
    return file
