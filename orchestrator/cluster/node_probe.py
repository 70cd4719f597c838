"""What a node has of what a sweep needs. Sent to nodes by value: it must run where nothing of ours is installed.

Standard library only, until it is known that our code is there.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_PACKAGES = ("orchestrator", "distill", "search_spaces")
_LOCK_FILE = "lock.json"


@dataclass(frozen=True)
class NodeRequirements:
    """What is asked of a node."""

    versions: dict[str, str]
    code: str
    readable: tuple[str, ...]
    buckets: tuple[str, ...]
    writable: tuple[str, ...]
    output: str
    holder: dict[str, object]
    trains: bool
    gpu: bool


def code_hash() -> str | None:
    """The hash of our three packages as this process would import them; None where one is not there."""
    found = hashlib.sha256()
    for name in _PACKAGES:
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:
            return None
        folder = Path(spec.origin).parent
        for path in sorted(p for p in folder.rglob("*") if p.suffix in (".py", ".yaml", ".json", ".csv")):
            found.update(str(path.relative_to(folder)).encode() + path.read_bytes())
    return found.hexdigest()


def versions_of(names: tuple[str, ...]) -> dict[str, str]:
    """The installed versions of these packages."""
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def probe_node(needs: dict[str, object]) -> list[str]:
    """What is missing on this node, each with its remedy; empty when all is there."""
    return list(_missing(NodeRequirements(**needs)))  # type: ignore[arg-type]  # plain values: a class of ours may not be there


def unwritable(folder: str) -> str | None:
    """Why nothing can be kept in a folder, which is made if it is not there; None where all is well."""
    path = os.path.expanduser(folder)
    try:
        os.makedirs(path, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            return None
    except OSError as error:
        return f"cannot be written ({error.strerror})"


def _missing(needs: NodeRequirements) -> Iterator[str]:
    packages = list(_packages(needs))
    yield from packages
    if needs.gpu and needs.trains and not _sees_gpu():
        yield "torch sees no GPU; install the driver, or a torch that was built for it (constraints.txt)"
    if not needs.trains:
        return
    for path in needs.readable:
        if not os.access(path, os.R_OK):
            yield f"{path} cannot be read; copy it there, or mount a folder that all nodes share"
    for path in needs.writable:
        fault = unwritable(path)
        if fault is not None:
            yield f"{path} {fault}; choose another folder"
    if not packages:
        yield from _buckets(needs)
        yield from _output(needs)


def _packages(needs: NodeRequirements) -> Iterator[str]:
    here = versions_of(tuple(needs.versions))
    for name, wanted in needs.versions.items():
        if here.get(name) != wanted:
            yield (
                f"{name} is {here.get(name, 'not installed')}, the sweep has {wanted}; "
                "pip install --constraint constraints.txt ."
            )
    code = code_hash()
    if code is None:
        yield "our code is not installed; install this checkout there, or let it travel: --address job"
    elif code != needs.code:
        yield "another version of our code is installed; install this checkout there, or let it travel: --address job"


def _sees_gpu() -> bool:
    """In a process of its own: Ray hides the GPUs from a task that holds none."""
    environment = {key: value for key, value in os.environ.items() if key != "CUDA_VISIBLE_DEVICES"}
    question = "import sys, torch; sys.exit(not torch.cuda.is_available())"
    return subprocess.run([sys.executable, "-c", question], env=environment, check=False).returncode == 0


def _buckets(needs: NodeRequirements) -> Iterator[str]:
    """Whether each bucket answers this node, with the rights that it has here."""
    from distill.data.bucket import BucketPath

    for address in needs.buckets:
        root = BucketPath(address)
        try:
            if not root.is_dir():
                yield f"{root} does not exist; put the data there, or give the node's role the right to list it"
        except Exception as error:
            yield f"{root} cannot be read ({error}); give the node's role the right to"


def _output(needs: NodeRequirements) -> Iterator[str]:
    """Whether this node reads the lock that the sweep holds, and may write beside it."""
    from orchestrator.ledger.tables import Ledger

    ledger = Ledger(needs.output)
    place = ledger.place()
    try:
        holder = json.loads(ledger.read_bytes(_LOCK_FILE))
    except FileNotFoundError:
        yield f"{place} is not the sweep's; give --output a folder that all nodes share, s3://… or gs://…"
        return
    except Exception as error:
        yield f"{place} cannot be read ({error}); give the node's role the right to, or choose another --output"
        return
    if {key: holder[key] for key in needs.holder} != needs.holder:
        yield f"{place} is another one; give --output a folder that all nodes share, s3://… or gs://…"
        return
    mine = f"{_LOCK_FILE}.{os.getpid()}"
    try:
        ledger.write_bytes(mine, b"")
        ledger.delete(mine)
    except Exception as error:
        yield f"{place} cannot be written ({error}); give the node's role or user the right to"
