"""Records in; tables, figures, board and site out. Never imports torch."""
