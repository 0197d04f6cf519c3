"""Background readers: `catflap work`."""
