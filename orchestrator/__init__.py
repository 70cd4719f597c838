"""Plan, run and report a comparison of distillation methods on Ray. The only package that imports ray."""

__version__ = "0.1.0"
