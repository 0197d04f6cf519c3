"""The subcommands of `catflap`."""
