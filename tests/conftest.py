"""What all tests share: the environment, set before anything is imported."""

import os

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
