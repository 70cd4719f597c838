"""The tests; their folders mirror the packages and rooms they test."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
