"""What can be chosen by name, as data: heads, backbones with their cost, and methods. Imports neither torch nor timm."""
