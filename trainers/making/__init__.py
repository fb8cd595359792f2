"""Making MoE checkpoints: tiny ones from random weights, and larger ones from dense checkpoints."""
