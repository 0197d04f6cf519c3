"""A serving engine in small, on numpy. Nothing in here knows Triton: 1/model.py joins the two.

engine      the thread: plan, compute, choose, send
scheduler   who computes what in the next step; blocks: the KV cache's book-keeping
transformer the forward pass; weights, tokenizer: its files; plain: the same without cache and batch, for the tests
writing     from logits to a piece of an answer; sampling, text: its parts
requests    what a request is and what it gets back; parameters: how it is sampled; sender: the thread that answers
"""
