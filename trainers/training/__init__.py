"""The training stage: a run's manifest in, a checkpoint and a mixture trace out."""
