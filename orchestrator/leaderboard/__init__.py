"""Makes the leaderboard from the tables of runs: `files.write_leaderboard`. Imports neither torch nor ray."""
