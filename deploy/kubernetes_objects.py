"""Checks Kubernetes files against Kubernetes' own schemas, unknown keys included: python deploy/kubernetes_objects.py FILE...

Kubernetes has no schema for a RayJob, so the pods of its head and worker groups are checked instead.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import yaml


def objects(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The object itself, or the pods of a RayJob."""
    if document["kind"] != "RayJob":
        yield document
        return
    cluster = document["spec"]["rayClusterSpec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        name = group.get("groupName", "head")
        yield {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, **group["template"]}


def main(paths: list[str]) -> int:
    """Prints every fault; returns 1 if there is one."""
    faults = 0
    version = kubernetes_validate.latest_version()
    for path in paths:
        for document in yaml.safe_load_all(Path(path).read_text(encoding="utf-8")):
            for found in objects(document):
                try:
                    kubernetes_validate.validate(found, version, strict=True)
                except kubernetes_validate.ValidationError as error:
                    print(
                        f"{path}: {found['kind']} {found['metadata']['name']}: {error.message}",
                        file=sys.stderr,
                    )
                    faults += 1
    return min(faults, 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
