"""A language-model engine in small. Nothing in here knows Triton: 1/model.py joins the two."""
