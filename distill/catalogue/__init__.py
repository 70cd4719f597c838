"""Catalogue of heads, backbones (with their cost) and methods, readable without importing torch or timm."""
