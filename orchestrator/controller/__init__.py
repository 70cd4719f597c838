"""The driver: decides what trains next, starts it, and records the results. Imports no torch."""
