"""What `catflap up` starts by itself on one machine: a real Redis, a real Triton, and Catflap's own processes."""
