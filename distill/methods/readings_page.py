"""The part of `docs/methods.md` about the readings of HeteroAKD."""

from __future__ import annotations

import json
from pathlib import Path

_TEXT = """### Readings

The authors released no code. What is known of the paper comes from its abstract, from reviews, from two public
re-implementations that follow its numbered equations, and from a public summary. They contradict each other in four places:

- **The weights of equation 4.** W is a softmax over the classes of a pixel, says one source; over space, says another. Over
  classes, the largest weight is that of the class that the student wrongly chose, and equation 5 multiplies the target with
  it. The minimiser is then proportional to W times the target, not the target. While the student is wrong this feeds on itself:
  followed alone, the term ends at the wrong class (table). That contradicts the purpose that the paper states, to give the student the
  knowledge that it needs. Something is transcribed wrongly, and nobody without the authors' code can say what.
- **The ReLU.** Both re-implementations end the projectors with one. Then sg(Z) ≥ ½, and no class can be denied. The summary
  says that the projection is linear.
- **The kind of entropy.** H is a binary entropy of each class, while equation 5 is a cross-entropy between softmaxes.
- **What is mixed and minimised.** The summary weighs teacher and student by a softmax of their reliabilities, takes the KL as the
  discrepancy of a pixel, and names three losses: cross-entropy, L2 and KL. Equations 3 to 5 have neither KL nor L2.

So there is a preset for each consistent reading. `pixel` is the default, and carries the method's name, because [a benchmark on
photographs](benchmark/camvid/README.md) decided so, by a rule that was written down before its final trainings were scored. It has not been shown
to be what the authors meant. Up to version 0.1.0 `literal` was the default.

| preset | projection | mixing | weight and loss | source |
| --- | --- | --- | --- | --- |
| `literal`, `paper` | 1×1 convolution, BatchNorm, ReLU | equation 3, per class | equations 4 and 5 as printed, W over classes | two re-implementations |
| `pixel` | without the ReLU | equation 3, per class | one weight per pixel: softmax over an image of the mean over classes of H_s + ΔH, times the number of valid pixels; KL(softmax(Z_hyb/τ) ‖ softmax(Z_s/τ))·τ² | our choice, from "over space" |
| `bernoulli` | without the ReLU | equation 3, per class | W as in equation 4; Σ_c W_c·KL(Bern(sg(Z_hyb,c/τ)) ‖ Bern(sg(Z_s,c/τ)))·τ² | our choice: a loss of the kind that H is |
| `summary` | 1×1 convolution with a bias | per pixel: softmax of both log-probabilities of the label | W is the KL of a pixel over its mean in the image, times that KL; and `l2`, mean (Z_s − Z_t)² | a public summary |
| `stable` | without the ReLU | equation 3, per class | equation 5 with the one weight K·Σ_c W_c·p_c for all classes of a pixel | our choice |

In all of them Z_hyb, shares and weights carry no gradient, and `proj` supervises the projectors by the labels.

`python benchmarks/readings.py` follows the term alone on one pixel of 9 classes, {steps} steps of Adam at {rate:g}. The teacher is right
(4 against 0.5), the student wrong (3 against 1); it begins at p(true) {start_true:.3f} and p(wrong) {start_wrong:.3f}:

| reading | p(true) | p(wrong) |
| --- | ---: | ---: |
"""

_AFTER = """
`summary` and `bernoulli` end at the teacher's probabilities; per-class mixing with a softmax loss goes beyond.

In training on generated scenes, at `tap: fused`, the gradient of `hakd` beside that of the task changes from the first steps to the last
by these factors ([how it was measured](#how-far-a-relative-weight-drifts)): {drift}. The literal term gains on the task, while
those of the other readings fall as `kd` does.

Other switches: `tap: fused` projects what FitNet, AT, SKD, IFVD and CIRKD compare; `hakd_temperature` is a temperature apart from
that of `kd`; `proj_gradient: projector` keeps the labels' gradient out of the backbone; `teacher_projector: pretrained` with
`projector_data: teacher` trains the teacher's projector on the scenes that the teacher was trained on. Other kinds of data have
one training set for both, and the training data of an imported checkpoint is not at hand. There it is the student's. The
studies `benchmarks/studies/readings.yaml` and `benchmarks/studies/ablations.yaml` compare all of these
([what came out](benchmark/README.md#what-heteroakds-parts-and-readings-are-worth))."""


def readings_section(root: Path) -> str:
    """What is disputed about the method, a table of its readings, and where the term of each takes a wrong student."""
    report = json.loads((root / "benchmarks" / "readings.json").read_text(encoding="utf-8"))
    rows = [f"| {row['reading']} | {row['true']:.3f} | {row['wrong']:.3f} |" for row in report["rows"]]
    before = _TEXT.format(**{key: report[key] for key in ("steps", "rate", "start_true", "start_wrong")})
    drift = json.loads((root / "benchmarks" / "drift.json").read_text(encoding="utf-8"))["rows"]
    factors = [
        f"`{row['case'].removeprefix('heteroakd, ')}` {row['drift']:.2g}"
        for row in drift
        if row["term"] == "hakd"
    ]
    return before + "\n".join(rows) + "\n" + _AFTER.format(drift=", ".join(factors))
