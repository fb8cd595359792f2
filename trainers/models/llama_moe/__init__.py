"""LLaMA-MoE: a LLaMA whose feed-forward neurons are divided among experts (Zhu et al. 2024, arXiv:2406.16554)."""
