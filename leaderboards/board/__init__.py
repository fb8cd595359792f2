"""The leaderboard: a board's folder, submissions and their checks, ranks, the site, exchange formats."""
