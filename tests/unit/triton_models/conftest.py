"""The engine lives in the model's folder, where Triton finds it; the tests find it the same way."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3] / "triton_models" / "demo" / "1"))
