"""Hands a sweep to a cluster as a Ray job: the job outlives this terminal, which only follows its log.

Code, lock and sweep file travel with the job; the packages it needs, and the data, must be there (the sweep says what
is missing). `ray` is imported late, so that a fault of the command is told at once.
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

_PACKAGES = ("orchestrator", "distill", "search_spaces")
_LOCK = ("constraints.txt", "pyproject.toml")
_LOST_AT_MOST = 5  # connections to the log in a row that break before we give up
_STOPPED, _UNKNOWN = 130, 1
_NOT_YET = "No available agent to submit job"
_READY_SECONDS = 60.0


def submit(options: Any) -> int:
    """Runs the very same command on the cluster and follows it; returns its exit code.

    A job of the same command that still runs is followed instead of started twice.

    Raises:
        UsageError: the cluster cannot be reached, or the run's folder is one that only this machine has.
    """
    output = _shared_output(options.output)
    client = _client(options.address)
    arguments = list(arguments_of(options))
    mark = digest([options.source, output, arguments])
    job = _running(client, mark)
    if job is None:
        with tempfile.TemporaryDirectory(prefix="job-") as folder:
            source = stage(Path(folder), options.source)
            job = _submitted(
                client,
                entrypoint=shlex.join(
                    ["python", "-m", "orchestrator.sweep", source, *arguments, "--address", "auto"]
                ),
                runtime_env={
                    "working_dir": folder,
                    # Time to leave off with a checkpoint when the job is stopped.
                    "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": "120"},
                },
                metadata={"sweep": mark, "output": output},
            )
        print(f"submitted as job {job}", file=sys.stderr)
    else:
        print(f"job {job} runs this command already; following it", file=sys.stderr)
    return _follow(client, job)


def _submitted(client: Any, **what: Any) -> str:
    """The new job's name. A cluster that has just started has nobody yet to run it: waits for that a while."""
    deadline = time.monotonic() + _READY_SECONDS
    while True:
        try:
            return str(client.submit_job(**what))
        except RuntimeError as error:
            if _NOT_YET not in str(error) or time.monotonic() > deadline:
                raise UsageError(f"the cluster did not take the job: {str(error).strip()}") from error
            time.sleep(1)


def stage(folder: Path, source: str) -> str:
    """Lays out what the job needs in `folder`; returns the sweep's source as the job names it."""
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
    shutil.copy(source, folder / Path(source).name)
    return Path(source).name


def _shared_output(output: str | None) -> str:
    if output is None or ("://" not in output and not Path(output).is_absolute()):
        given = "is not given" if output is None else f"is {output}"
        raise UsageError(
            f"--output {given}: a job's run must lie where the cluster and you can read it; "
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
    """The command's options less source and address, as they were typed."""
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


def _running(client: Any, mark: str) -> str | None:
    for job in client.list_jobs():
        if (job.metadata or {}).get("sweep") == mark and not job.status.is_terminal():
            return str(job.submission_id)
    return None


def _follow(client: Any, job: str) -> int:
    """Prints the job's log until it ends."""
    address = client.get_address()
    try:
        asyncio.run(_print_log(client, job))
    except KeyboardInterrupt:
        print(
            f"\nthe job goes on without this terminal; the same command follows it again.\n"
            f"  look:  ray job logs --follow --address {address} {job}\n"
            f"  stop:  ray job stop --address {address} {job}",
            file=sys.stderr,
        )
        return _STOPPED
    details = client.get_job_info(job)
    if details.status == "STOPPED":
        return _STOPPED
    if details.driver_exit_code is None or details.driver_exit_code < 0:
        print(f"job {job}: {details.status}: {details.message}", file=sys.stderr)
        return _UNKNOWN
    return int(details.driver_exit_code)


async def _print_log(client: Any, job: str) -> None:
    """The log from its beginning; a connection that breaks is opened again where it broke."""
    import aiohttp

    printed = lost = 0
    while True:
        position = 0
        try:
            async for text in client.tail_job_logs(job):
                print(text[max(0, printed - position) :], end="", flush=True)
                position += len(text)
                printed = max(printed, position)
                lost = 0
            return
        except (RuntimeError, OSError, aiohttp.ClientError) as error:
            lost += 1
            if lost > _LOST_AT_MOST:
                raise UsageError(
                    f"job {job} cannot be followed any more: {error}. It may well go on: ray job status {job}"
                ) from error
            if client.get_job_info(job).status.is_terminal():
                return
