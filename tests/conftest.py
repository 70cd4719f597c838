"""What all tests share: the environment, set before anything is imported."""

import os

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"  # threads decide the order of sums, and with it the last bits
