"""The ASGI app that clients call."""
