"""A checkpoint in, scores and judgments out."""
