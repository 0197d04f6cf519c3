"""The engine and the training live in the model's folder, where Triton finds them; the tests find them the same way."""

import sys
from pathlib import Path

DEMO = Path(__file__).parents[3] / "triton_models" / "demo"
sys.path[:0] = [str(DEMO / "1"), str(DEMO)]
