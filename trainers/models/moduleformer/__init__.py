"""MoLM, the ModuleFormer: experts in place of neurons and of attention heads (Shen et al. 2023, arXiv:2306.04640)."""
