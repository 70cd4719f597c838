"""Distillation losses, one file per paper: settings, formula, and the module that reads two networks'
outputs.

>>> from distill.methods import build_method, list_methods
>>> method = build_method("kd", student=student, teacher=teacher, num_classes=19, temperature=2)
>>> terms = method(student(images), teacher(images), labels)

The formulas are plain functions, student first and teacher second, in float32, a mean over the valid pixels.
"""

from distill.methods.config import MethodConfig
from distill.methods.cwd import channel_kl
from distill.methods.heteroakd import hetero_akd
from distill.methods.kd import pixel_kl
from distill.methods.pixels import IGNORE_INDEX, cross_entropy
from distill.methods.projector import LogitsProjector, train_teacher_projector
from distill.methods.registry import Card, Method, build_method, list_methods, method_class, register
from distill.methods.student import Student

__all__ = [
    "IGNORE_INDEX",
    "Card",
    "LogitsProjector",
    "Method",
    "MethodConfig",
    "Student",
    "build_method",
    "channel_kl",
    "cross_entropy",
    "hetero_akd",
    "list_methods",
    "method_class",
    "pixel_kl",
    "register",
    "train_teacher_projector",
]
