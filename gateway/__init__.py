"""Catflap: the LLM API gateway for people who run their own GPUs behind NVIDIA Triton."""

__version__ = "0.1.0"
