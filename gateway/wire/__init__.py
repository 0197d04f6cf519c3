"""Bytes to core and back, nothing else. Pure."""
