"""The parts of HeteroAKD's term, equations 3 to 5, and what its readings have in their place.

Weights W have a channel per class, or one channel if all classes of a pixel have the same weight.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from distill.data.sample import IGNORE_INDEX
from distill.methods.pixels import in_float32, keep_valid, lowest, mean_over_valid, soften

KemAxis = Literal["class", "space", "pixel", "divergence", "none"]
Discrepancy = Literal["cross_entropy", "kl", "bernoulli"]


def class_uncertainty(logits: Tensor, labels: Tensor) -> Tensor:
    """H(Z): binary cross-entropy of every class against the label, per pixel and class (part of eq. 3).

    Args:
        logits: Z, `B×K×h×w`.
        labels: `B×h×w` int64; values at ignored pixels are meaningless.
    """
    # −log sg(Z) = softplus(−Z) and −log(1 − sg(Z)) = softplus(Z) neither overflow nor lose precision.
    own_class = torch.where(labels == IGNORE_INDEX, 0, labels)[:, None]
    return F.softplus(logits).scatter_(1, own_class, F.softplus(-logits.gather(1, own_class)))


def mix_knowledge(
    student_logits: Tensor, teacher_logits: Tensor, student_h: Tensor, teacher_h: Tensor
) -> Tensor:
    """Z_hyb = S_t⊙Z_t + (1 − S_t)⊙Z_s with S_t = H_s/(H_t + H_s) (KMM, eq. 3).

    All are `B×K×h×w`. Where both are 0 in float precision (H_s = H_t = 0), S_t is ½.
    """
    share = (student_h / (student_h + teacher_h)).nan_to_num_(nan=0.5)
    return torch.lerp(student_logits, teacher_logits, share)


def mix_by_label(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> Tensor:
    """Z_hyb = S_t·Z_t + S_s·Z_s, (S_t, S_s) the softmax of both log-probabilities of the label, one pair per pixel.

    Logits are `B×K×h×w`, labels `B×h×w` int64; values at ignored pixels are meaningless.
    """
    own_class = torch.where(labels == IGNORE_INDEX, 0, labels)[:, None]
    student_log, teacher_log = (
        F.log_softmax(logits, dim=1).gather(1, own_class) for logits in (student_logits, teacher_logits)
    )
    return torch.lerp(student_logits, teacher_logits, torch.sigmoid(teacher_log - student_log))


def evaluate_knowledge(
    student_h: Tensor, mixed_h: Tensor, valid: Tensor, axis: KemAxis = "class", scale_by_classes: bool = False
) -> Tensor:
    """W = softmax(H_s + max(0, H_s − H_hyb)) (KEM, eq. 4).

    The weight is largest where the student's error is large and the mixture reduces it.

    Args:
        student_h: H(Z_s), `B×K×h×w`.
        mixed_h: H(Z_hyb), `B×K×h×w`.
        valid: `B×h×w` bool.
        axis: axis of the softmax. `class`: weights of a pixel sum to 1. `space`: weights of a class in an image
            average to 1 over its valid pixels (a softmax over them, times their number). `pixel`: as `space`,
            of the mean over classes, so that a pixel has one weight. `none`: 1/K everywhere. For `divergence` see
            `divergence_weight`.
        scale_by_classes: K·W for `class` and `none`, so that a uniform W has weight 1, as it has for `space`.

    Returns:
        W, `B×K×h×w`, or `B×1×h×w` for `pixel`.
    """
    num_classes = student_h.shape[1]
    scale = float(num_classes) if scale_by_classes else 1.0
    if axis == "none":
        return torch.full_like(student_h, scale / num_classes)
    need = (student_h - mixed_h).clamp_(min=0).add_(student_h)
    if axis == "class":
        weight = F.softmax(need, dim=1)
        return weight.mul_(scale) if scale_by_classes else weight
    if axis == "pixel":
        need = need.mean(1, keepdim=True)
    inside = keep_valid(need, valid, lowest(need)).flatten(2)
    count = valid.sum((1, 2))[:, None, None, None]
    return F.softmax(inside, dim=2).view_as(need) * count


@in_float32
def weighted_soft_cross_entropy(
    student_logits: Tensor, target: Tensor, weight: Tensor, valid: Tensor, temperature: float = 1.0
) -> Tensor:
    """−(1/|Ω|) Σ_i Σ_c W_ci · p_ci · log softmax(Z_s,i/τ)_c (eq. 5); no τ² here (one source).

    Args:
        student_logits: Z_s, `B×K×h×w`, finite.
        target: p, `B×K×h×w`, sums to 1 over classes.
        weight: W, `B×K×h×w` or `B×1×h×w`.
        valid: Ω, `B×h×w` bool.
        temperature: τ.
    """
    log_student = F.log_softmax(soften(student_logits, temperature), dim=1)
    if weight.shape[1] == 1:
        return -mean_over_valid(weight[:, 0] * (target * log_student).sum(1), valid)
    return -mean_over_valid((weight * target * log_student).sum(1), valid)


def divergence_weight(student_logits: Tensor, mixed: Tensor, valid: Tensor, temperature: float) -> Tensor:
    """W: KL(softmax(Z_hyb/τ) ‖ softmax(Z_s/τ)) of each pixel over its mean in the image, `B×1×h×w`; 0 if all are 0."""
    divergence = keep_valid(_kl(student_logits, mixed, temperature).sum(1, keepdim=True).clamp_(min=0), valid)
    total = divergence.sum((2, 3), keepdim=True)
    count = valid.sum((1, 2))[:, None, None, None]
    return divergence * count / total.clamp(min=torch.finfo(total.dtype).tiny)


def _kl(student_logits: Tensor, mixed: Tensor, temperature: float) -> Tensor:
    """p_c·(log p_c − log q_c), p of the mixed logits and q of the student's; its sum over classes is the KL."""
    log_student = F.log_softmax(soften(student_logits, temperature), dim=1)
    log_mixed = F.log_softmax(soften(mixed, temperature), dim=1)
    return log_mixed.exp() * (log_mixed - log_student)


def _bernoulli_kl(student_logits: Tensor, mixed: Tensor, temperature: float) -> Tensor:
    """KL(Bern(sg(Z_hyb,c/τ)) ‖ Bern(sg(Z_s,c/τ))) of every class."""
    own, other = soften(student_logits, temperature), soften(mixed, temperature)
    likely = torch.sigmoid(other) * (F.logsigmoid(other) - F.logsigmoid(own))
    return likely + torch.sigmoid(-other) * (F.logsigmoid(-other) - F.logsigmoid(-own))


@in_float32
def weighted_divergence(
    student_logits: Tensor,
    mixed: Tensor,
    weight: Tensor,
    valid: Tensor,
    temperature: float = 1.0,
    *,
    bernoulli: bool = False,
) -> Tensor:
    """τ²/|Ω| Σ_i Σ_c W_ci·d_ci, d the classes' parts of KL(softmax(Z_hyb/τ) ‖ softmax(Z_s/τ)) or their binary KL.

    Args:
        student_logits: Z_s, `B×K×h×w`, finite.
        mixed: Z_hyb, `B×K×h×w`, finite.
        weight: W, `B×K×h×w` or `B×1×h×w`.
        valid: Ω, `B×h×w` bool.
        temperature: τ.
        bernoulli: the binary KL of every class, KL(Bern(sg(Z_hyb,c/τ)) ‖ Bern(sg(Z_s,c/τ))).
    """
    divergence = (_bernoulli_kl if bernoulli else _kl)(student_logits, mixed, temperature)
    return temperature**2 * mean_over_valid((weight * divergence).sum(1), valid)
