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


def _mixed_per_class(z_s, z_t, label):
    """Z_hyb of one pixel by eq. 3, and H_s + ΔH of every class."""
    mixed, need = np.zeros_like(z_s), np.zeros_like(z_s)
    for c in range(len(z_s)):
        h_s, h_t = uncertainty(z_s[c], c == label), uncertainty(z_t[c], c == label)
        mixed[c] = (h_s * z_t[c] + h_t * z_s[c]) / (h_s + h_t)
        need[c] = h_s + max(0, h_s - uncertainty(mixed[c], c == label))
    return mixed, need


def _softmax_kl(z_p, z_q):
    p, q = softmax(z_p), softmax(z_q)
    return (p * np.log(p / q)).sum()


def pixel_reading(student, teacher, labels, temperature):
    total, pixels = 0.0, valid_positions(labels)
    for b in range(len(student)):
        inside = [(y, x) for i, y, x in pixels if i == b]
        found = [
            _mixed_per_class(student[b, :, y, x], teacher[b, :, y, x], labels[b, y, x]) for y, x in inside
        ]
        if not inside:
            continue
        weights = softmax(np.array([need.mean() for _, need in found])) * len(inside)
        for (y, x), (mixed, _), weight in zip(inside, found, weights, strict=True):
            total += weight * _softmax_kl(mixed / temperature, student[b, :, y, x] / temperature)
    return temperature**2 * total / max(len(pixels), 1)


def bernoulli_reading(student, teacher, labels, temperature):
    total, pixels = 0.0, valid_positions(labels)
    for b, y, x in pixels:
        mixed, need = _mixed_per_class(student[b, :, y, x], teacher[b, :, y, x], labels[b, y, x])
        for c, weight in enumerate(softmax(need)):
            p, q = (1 / (1 + np.exp(-z / temperature)) for z in (mixed[c], student[b, c, y, x]))
            total += weight * (p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q)))
    return temperature**2 * total / max(len(pixels), 1)


def summary_reading(student, teacher, labels, temperature):
    total, pixels = 0.0, valid_positions(labels)
    for b in range(len(student)):
        divergences = []
        for i, y, x in pixels:
            if i == b:
                z_s, z_t, label = student[b, :, y, x], teacher[b, :, y, x], labels[b, y, x]
                share_t, share_s = softmax(np.array([log_softmax(z_t)[label], log_softmax(z_s)[label]]))
                divergences.append(
                    _softmax_kl((share_t * z_t + share_s * z_s) / temperature, z_s / temperature)
                )
        if divergences and np.sum(divergences) > 0:
            total += (np.array(divergences) ** 2).sum() / np.mean(divergences)
    return temperature**2 * total / max(len(pixels), 1)


def correlation(a, b):
    a, b = a - a.mean(), b - b.mean()
    norms = (a**2).sum() * (b**2).sum()
    return (a * b).sum() / np.sqrt(max(norms, 1e-16))


def pearson_relation(student, teacher, labels, beta, gamma, temperature):
    pixels = valid_positions(labels)
    if not pixels:
        return 0.0
    p_s = np.array([softmax(student[b, :, y, x] / temperature) for b, y, x in pixels])
    p_t = np.array([softmax(teacher[b, :, y, x] / temperature) for b, y, x in pixels])
    inter = np.mean([1 - correlation(s, t) for s, t in zip(p_s, p_t, strict=True)])
    intra = np.mean([1 - correlation(p_s[:, c], p_t[:, c]) for c in range(p_s.shape[1])])
    return temperature**2 * (beta * inter + gamma * intra)


def unit(vector):
    length = np.sqrt((vector**2).sum())
    return vector / length if length > 0 else vector


def max_pooled(features, labels, pool):
    """Per image the pooled feature of every window that has a valid pixel."""
    images = []
    for b in range(features.shape[0]):
        vectors = []
        for y in range(0, features.shape[2], pool):
            for x in range(0, features.shape[3], pool):
                keep = labels[b, y : y + pool, x : x + pool] != 255
                if keep.any():
                    vectors.append(features[b, :, y : y + pool, x : x + pool][:, keep].max(1))
        images.append(vectors)
    return images


def pairwise_similarity(student, teacher, labels, pool):
    total, pairs = 0.0, 0
    images = zip(max_pooled(student, labels, pool), max_pooled(teacher, labels, pool), strict=True)
    for image_s, image_t in images:
        for i in range(len(image_s)):
            for j in range(len(image_s)):
                cosine_s = unit(image_s[i]) @ unit(image_s[j])
                cosine_t = unit(image_t[i]) @ unit(image_t[j])
                total += (cosine_s - cosine_t) ** 2
                pairs += 1
    return total / max(pairs, 1)


def intra_class_variation(student, teacher, labels):
    total, pixels = 0.0, valid_positions(labels)
    for b, y, x in pixels:
        same = labels[b] == labels[b, y, x]
        cosines = [
            unit(features[b, :, y, x]) @ unit(features[b][:, same].mean(1)) for features in (student, teacher)
        ]
        total += (cosines[0] - cosines[1]) ** 2
    return total / max(len(pixels), 1)


def attention_transfer(student, teacher, labels):
    total, count = 0.0, 0
    for b in range(student.shape[0]):
        keep = labels[b] != 255
        if keep.any():
            maps = [unit((features[b][:, keep] ** 2).mean(0)) for features in (student, teacher)]
            total += ((maps[0] - maps[1]) ** 2).sum()
            count += keep.sum()
    return total / max(count, 1)


def feature_mse(student, teacher, labels):
    pixels = valid_positions(labels)
    errors = [((student[b, :, y, x] - teacher[b, :, y, x]) ** 2).mean() for b, y, x in pixels]
    return sum(errors) / max(len(errors), 1)


def cross_image_relation(student, teacher, labels, temperature):
    """Mean over ordered pairs of images of the mean over rows; all pixels valid or none of an image."""
    batch, _, height, width = student.shape
    pixels = [
        [(y, x) for y in range(height) for x in range(width) if labels[b, y, x] != 255] for b in range(batch)
    ]
    total, rows = 0.0, 0
    for i in range(batch):
        for j in range(batch):
            if not pixels[j]:
                continue
            for y, x in pixels[i]:
                logs = [
                    log_softmax(
                        np.array([unit(f[i, :, y, x]) @ unit(f[j, :, v, u]) for v, u in pixels[j]])
                        / temperature
                    )
                    for f in (student, teacher)
                ]
                total += (np.exp(logs[1]) * (logs[1] - logs[0])).sum()
                rows += 1
    return total / max(rows, 1)


def target_enhanced(student, teacher, labels, gamma):
    total, pixels = 0.0, valid_positions(labels)
    for b, y, x in pixels:
        truth = np.arange(student.shape[1]) == labels[b, y, x]
        target = (softmax(teacher[b, :, y, x]) + truth) ** gamma - truth
        total -= (target * log_softmax(student[b, :, y, x])).sum()
    return total / max(len(pixels), 1)


def masked_generation(restored, teacher, labels):
    errors = [
        ((restored[b, :, y, x] - teacher[b, :, y, x]) ** 2).sum() for b, y, x in valid_positions(labels)
    ]
    return sum(errors) / restored.shape[0]


def omni_contrast(student, teacher, labels, groups, patch, pool, temperature):
    total, positions = 0.0, 0
    batch, channels, height, width = student.shape
    size = channels // groups
    for b in range(batch):
        pooled = {}
        for py, y in enumerate(range(0, height, pool)):
            for px, x in enumerate(range(0, width, pool)):
                keep = labels[b, y : y + pool, x : x + pool] != 255
                if keep.any():
                    pooled[py, px] = [
                        f[b, :, y : y + pool, x : x + pool][:, keep].max(1).reshape(groups, size)
                        for f in (student, teacher)
                    ]
        for (y, x), (mine, theirs) in pooled.items():
            window = [
                v for k, v in pooled.items() if (k[0] // patch, k[1] // patch) == (y // patch, x // patch)
            ]
            for g in range(groups):
                positive = -np.abs(mine[g] - theirs[g]).sum() / temperature
                negatives = [
                    -np.abs(mine[g] - other[h]).sum() / temperature
                    for _, other in window
                    for h in range(groups)
                    if h != g
                ]
                total -= log_softmax(np.array([positive, *negatives]))[0]
            positions += 1
    return total / max(positions, 1)


def class_edges(labels, kernel):
    """Dilation minus erosion of each class's one-hot map; ignored pixels belong to none and are left out."""
    radius = kernel // 2
    edges = np.zeros(labels.shape, dtype=bool)
    for b, y, x in valid_positions(labels):
        window = labels[b, max(0, y - radius) : y + radius + 1, max(0, x - radius) : x + radius + 1]
        window = window[window != 255]
        for c in range(int(window.max()) + 1):
            is_class = window == c
            edges[b, y, x] |= is_class.any() and not is_class.all()
    return edges
