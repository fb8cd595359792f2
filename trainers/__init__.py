"""A recipe and a strategy in, a checkpoint and a mixture trace out."""
