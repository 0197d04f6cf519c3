"""Adapters: neutral prompts to one backend's tensors, and its tensors to Deltas. Chosen by the fleet file."""
