"""Ray itself: start, join, grow, check nodes, submit jobs."""
