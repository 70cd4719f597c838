"""What a sweep ranges over: the methods' hyper-parameter spaces and the presets, as YAML with a loader."""

from search_spaces.presets import preset_names, preset_path
from search_spaces.space import Domain, Space, load_space, space_from

__all__ = ["Domain", "Space", "load_space", "preset_names", "preset_path", "space_from"]
