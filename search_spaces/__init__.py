"""Search spaces of the methods, presets, recipes, pairs and prices, as YAML files with their loaders."""

from search_spaces.presets import preset_names, preset_path
from search_spaces.space import Domain, Space, load_space, space_from

__all__ = ["Domain", "Space", "load_space", "preset_names", "preset_path", "space_from"]
