"""What runs where, and what came of it: the only package that imports ray."""

__version__ = "0.1.0"
