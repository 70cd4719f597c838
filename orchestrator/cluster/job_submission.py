"""Submit a sweep to a cluster as a Ray job and follow its log. The job continues if this terminal is closed.

The job's working directory contains the code, the lock file and the sweep file. Packages and data must be on the cluster:
the job checks them. `ray` is imported late, so that errors of the command line are reported at once.
"""

from __future__ import annotations

import asyncio
import dataclasses
import importlib.util
import json
import logging
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from distill.errors import UsageError
from distill.recipe import digest
from orchestrator.cluster.provenance import COMMIT_FILE, commit_of_this_code
from orchestrator.planning.loader import with_absolute_paths

_PACKAGES = ("orchestrator", "distill", "search_spaces")
_LOCK = ("constraints.txt", "pyproject.toml")
_MOST_BROKEN_CONNECTIONS = 5
"""Connections to the log that may break one after another without new text."""
_EXIT_STOPPED, _EXIT_UNKNOWN = 130, 1
_NO_AGENT_YET = "No available agent to submit job"
_READY_SECONDS = 60.0
"""Time to wait for the job agent of a cluster that has just started."""


def submit(options: Any) -> int:
    """Run the same command on the cluster and follow it; returns its exit code.

    If a job of the same command is still running, it is followed and no second job is submitted.

    Raises:
        UsageError: the cluster cannot be reached, or `--output` is not a location that the cluster shares.
    """
    output = _shared_output(options.output)
    text, overrides = with_absolute_paths(options.source, options.set)
    options = dataclasses.replace(options, set=overrides)
    client = _client(options.address)
    arguments = list(arguments_of(options))
    command_hash = digest([options.source, output, arguments])
    job = _running_job(client, command_hash)
    if job is None:
        with tempfile.TemporaryDirectory(prefix="job-") as folder:
            source = stage(Path(folder), options.source, text)
            job = _submit_when_ready(
                client,
                entrypoint=shlex.join(
                    ["python", "-m", "orchestrator.sweep", source, *arguments, "--address", "auto"]
                ),
                runtime_env={
                    "working_dir": folder,
                    # Time to write a checkpoint when the job is stopped.
                    "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": "120"},
                },
                metadata={"sweep": command_hash, "output": output},
            )
        print(f"submitted as job {job}", file=sys.stderr)
    else:
        print(f"job {job} runs this command already; following it", file=sys.stderr)
    return _follow(client, job)


def _submit_when_ready(client: Any, **job: Any) -> str:
    """Submit a job; returns its id. Waits a while for a cluster that has just started and has no job agent yet."""
    deadline = time.monotonic() + _READY_SECONDS
    while True:
        try:
            return str(client.submit_job(**job))
        except RuntimeError as error:
            if _NO_AGENT_YET not in str(error) or time.monotonic() > deadline:
                raise UsageError(f"the cluster did not take the job: {str(error).strip()}") from error
            time.sleep(1)


def stage(folder: Path, source: str, text: str) -> str:
    """Put what the job needs into `folder`; returns the preset or the file name for the job's command.

    Args:
        folder: an empty folder.
        source: the preset or the sweep file.
        text: the content of the sweep file for the job.
    """
    root = Path(__file__).resolve().parents[2]
    for name in _PACKAGES:
        shutil.copytree(root / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in _LOCK:
        if (root / name).is_file():
            shutil.copy(root / name, folder / name)
    commit, dirty = commit_of_this_code()
    (folder / COMMIT_FILE).write_text(json.dumps({"commit": commit, "dirty": dirty}), encoding="utf-8")
    if not source.endswith((".yaml", ".yml")):
        return source
    (folder / Path(source).name).write_text(text, encoding="utf-8")
    return Path(source).name


def _shared_output(output: str | None) -> str:
    if output is None or ("://" not in output and not Path(output).is_absolute()):
        given = "is not given" if output is None else f"is {output}"
        raise UsageError(
            f"--output {given}: the cluster and you must both be able to read the run of a job; "
            "give s3://bucket/run, gs://bucket/run, or the absolute path of a folder that all nodes share"
        )
    return output


def _client(address: str) -> Any:
    if importlib.util.find_spec("aiohttp") is None:
        raise UsageError("--address job needs Ray's job client: pip install 'heteroakd[cluster]'")
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    logging.getLogger("ray").setLevel(logging.ERROR)
    url = address.partition(":")[2] or None
    if url is not None and "://" not in url:
        url = f"http://{url}"
    try:
        return JobSubmissionClient(url)
    except (AuthenticationError, ConnectionError, RuntimeError, ValueError) as error:
        raise UsageError(
            f"--address {address}: no job can be submitted: {error}\n"
            "The head must serve Ray's dashboard (`ray[default]`, port 8265; forward it with `ray dashboard`, `kubectl "
            "port-forward` or `ssh -L 8265:localhost:8265`), and with a token RAY_AUTH_TOKEN must be set here as it is there"
        ) from error


def arguments_of(options: Any) -> Iterator[str]:
    """Command-line arguments of the options, without source and address."""
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if field.name in ("source", "address") or value in (None, False, []):
            continue
        flag = "--" + field.name.replace("_", "-")
        if value is True:
            yield flag
        else:
            for part in value if isinstance(value, list) else [value]:
                yield from (flag, str(part))


def _running_job(client: Any, command_hash: str) -> str | None:
    for job in client.list_jobs():
        if (job.metadata or {}).get("sweep") == command_hash and not job.status.is_terminal():
            return str(job.submission_id)
    return None


def _follow(client: Any, job: str) -> int:
    """Print the log of a job until the job ends; returns its exit code."""
    address = client.get_address()
    try:
        asyncio.run(_print_log(client, job))
    except KeyboardInterrupt:
        print(
            f"\nthe job goes on without this terminal; the same command follows it again.\n"
            f"  log:   ray job logs --follow --address {address} {job}\n"
            f"  stop:  ray job stop --address {address} {job}",
            file=sys.stderr,
        )
        return _EXIT_STOPPED
    details = client.get_job_info(job)
    if details.status == "STOPPED":
        return _EXIT_STOPPED
    if details.driver_exit_code is None or details.driver_exit_code < 0:
        print(f"job {job}: {details.status}: {details.message}", file=sys.stderr)
        return _EXIT_UNKNOWN
    return int(details.driver_exit_code)


async def _print_log(client: Any, job: str) -> None:
    """Print the log. If the connection breaks, open it again and skip the text that was printed."""
    import aiohttp

    printed = broken = 0
    while True:
        position = 0
        try:
            async for text in client.tail_job_logs(job):
                print(text[max(0, printed - position) :], end="", flush=True)
                position += len(text)
                printed = max(printed, position)
                broken = 0
            return
        except (RuntimeError, OSError, aiohttp.ClientError) as error:
            broken += 1
            if broken > _MOST_BROKEN_CONNECTIONS:
                raise UsageError(
                    f"job {job} cannot be followed any more: {error}. It may still be running: ray job status {job}"
                ) from error
            if client.get_job_info(job).status.is_terminal():
                return
