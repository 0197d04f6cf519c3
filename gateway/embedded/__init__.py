"""What `catflap up` starts by itself: Redis and Triton."""
