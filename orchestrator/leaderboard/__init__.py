"""Tables in, leaderboard out: `files.write_leaderboard` works on any run's ledger. No torch, no ray."""
