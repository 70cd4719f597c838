"""The driver: decides what trains next, starts it, records what came of it. No torch."""
