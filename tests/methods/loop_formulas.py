"""The formulas once more, as slow float64 loops in numpy, written from the papers."""

import numpy as np


def softmax(values):
    shifted = np.exp(values - np.max(values))
    return shifted / shifted.sum()


def log_softmax(values):
    shifted = values - np.max(values)
    return shifted - np.log(np.exp(shifted).sum())


def valid_positions(labels_bhw):
    return [tuple(i) for i in np.argwhere(np.asarray(labels_bhw) != 255)]


def cross_entropy(logits, labels):
    pixels = valid_positions(labels)
    losses = [-log_softmax(logits[b, :, y, x])[labels[b, y, x]] for b, y, x in pixels]
    return sum(losses) / max(len(losses), 1)


def pixel_kl(student, teacher, labels, temperature):
    total, pixels = 0.0, valid_positions(labels)
    for b, y, x in pixels:
        log_s = log_softmax(student[b, :, y, x] / temperature)
        log_t = log_softmax(teacher[b, :, y, x] / temperature)
        total += (np.exp(log_t) * (log_t - log_s)).sum()
    return temperature**2 * total / max(len(pixels), 1)


def channel_kl(student, teacher, labels, temperature):
    batch, channels = student.shape[:2]
    total = 0.0
    for b in range(batch):
        keep = labels[b] != 255
        if not keep.any():
            continue
        for c in range(channels):
            log_s = log_softmax(student[b, c][keep] / temperature)
            log_t = log_softmax(teacher[b, c][keep] / temperature)
            total += (np.exp(log_t) * (log_t - log_s)).sum()
    return temperature**2 * total / (batch * channels)


def uncertainty(logit, is_class):
    probability = 1 / (1 + np.exp(-logit))
    return -np.log(probability if is_class else 1 - probability)


def hetero_akd(student, teacher, labels, temperature, mixing, kem_axis, scale_by_classes, weight_per):
    batch, classes, height, width = student.shape
    mixed, need = np.zeros_like(student), np.zeros_like(student)
    for b, c, y, x in np.ndindex(student.shape):
        z_s, z_t, is_class = student[b, c, y, x], teacher[b, c, y, x], labels[b, y, x] == c
        h_s, h_t = uncertainty(z_s, is_class), uncertainty(z_t, is_class)
        share = h_s / (h_t + h_s)
        mixed[b, c, y, x] = share * z_t + (1 - share) * z_s if mixing else z_t
        need[b, c, y, x] = h_s + max(0, h_s - uncertainty(mixed[b, c, y, x], is_class))
    weight = np.zeros_like(student)
    for b in range(batch):
        keep = labels[b] != 255
        for c in range(classes):
            if kem_axis == "space" and keep.any():
                weight[b, c][keep] = softmax(need[b, c][keep]) * keep.sum()
            if kem_axis == "none":
                weight[b, c] = 1 / classes
        if kem_axis == "class":
            for y, x in np.ndindex(height, width):
                weight[b, :, y, x] = softmax(need[b, :, y, x])
    if scale_by_classes and kem_axis != "space":
        weight *= classes
    total, pixels = 0.0, valid_positions(labels)
    for b, y, x in pixels:
        target = softmax(mixed[b, :, y, x] / temperature)
        log_s = log_softmax(student[b, :, y, x] / temperature)
        factor = weight[b, :, y, x]
        if weight_per == "pixel":
            factor = (factor * target).sum()
        total -= (factor * target * log_s).sum()
    return total / max(len(pixels), 1)
