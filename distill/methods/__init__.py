"""Distillation methods: one file per paper, with its settings, its formula and its loss terms.

>>> from distill.methods import build_method, list_methods
>>> method = build_method("kd", student=student, teacher=teacher, num_classes=19, temperature=2)
>>> terms = method(student(images), teacher(images), labels)

Formulas are plain functions of student and teacher tensors, computed in float32 as means over the valid pixels.
"""

from distill.data.sample import IGNORE_INDEX
from distill.methods.af_dcd import omni_contrast
from distill.methods.at import attention_transfer
from distill.methods.bpkd import boundary_kl
from distill.methods.cirkd import cross_image_relation
from distill.methods.config import MethodConfig
from distill.methods.cwd import channel_kl
from distill.methods.dist import pearson_relation
from distill.methods.factory import build_method, method_class
from distill.methods.fitnet import feature_mse
from distill.methods.heteroakd import hetero_akd
from distill.methods.ifvd import intra_class_variation
from distill.methods.kd import pixel_kl
from distill.methods.mgd import masked_generation
from distill.methods.ofa import target_enhanced
from distill.methods.pixels import cross_entropy
from distill.methods.projector import LogitsProjector, train_teacher_projector
from distill.methods.registry import Card, Method, list_methods, register
from distill.methods.skd import pairwise_similarity
from distill.methods.student import StudentAlone

__all__ = [
    "IGNORE_INDEX",
    "Card",
    "LogitsProjector",
    "Method",
    "MethodConfig",
    "StudentAlone",
    "boundary_kl",
    "omni_contrast",
    "masked_generation",
    "target_enhanced",
    "cross_image_relation",
    "feature_mse",
    "attention_transfer",
    "intra_class_variation",
    "pairwise_similarity",
    "pearson_relation",
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
