"""What all tests share: the environment, set before anything is imported."""

import os

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"  # threads decide the order of sums, and with it the last bits


def pytest_collection_modifyitems(items: list) -> None:
    """Files that start Ray come first: they take longest, and two workers share them best at the start."""
    slow = {item.path for item in items if item.get_closest_marker("ray")}
    items.sort(key=lambda item: item.path not in slow)
