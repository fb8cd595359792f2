"""The paper's tables and figures: what each needs, how it is computed, and the published figures to print beside."""
