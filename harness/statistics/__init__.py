"""The project's only statistics: estimates, intervals, p-values, corrections, verdicts and ranks."""
