"""Who is asking: keys and the directory that resolves them."""
