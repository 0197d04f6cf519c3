"""A whole house for an instrument: Redis of any kind, a database, a Triton that does as it is told, several gateways,
the background readers, and clients that write down what they saw."""
