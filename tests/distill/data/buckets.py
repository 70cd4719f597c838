"""Data sets in a bucket of the tests' S3 server."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import boto3

S3_ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "k",
    "AWS_SECRET_ACCESS_KEY": "s",
    "AWS_EC2_METADATA_DISABLED": "true",
}
"""What a process needs to be let in by the tests' server."""


def at(server: str, prefix: str = "data", bucket: str = "runs") -> str:
    """The address of a folder in the bucket, by way of host:port."""
    return f"s3://{bucket}/{prefix}?scheme=http&endpoint_override={server}&region=us-east-1"


def store(server: str) -> object:
    """A client of the server."""
    return boto3.client("s3", endpoint_url=f"http://{server}", region_name="us-east-1")


def upload(server: str, root: Path, prefix: str = "data") -> str:
    """Puts a tree into the bucket; returns its address."""
    client = store(server)
    for path in root.rglob("*"):
        if path.is_file():
            key = f"{prefix}/{path.relative_to(root).as_posix()}"
            client.put_object(Bucket="runs", Key=key, Body=path.read_bytes())  # type: ignore[attr-defined]
    return at(server, prefix)


def remove(server: str, *keys: str, prefix: str = "data") -> None:
    """Deletes objects; without keys all below the prefix."""
    client = store(server)
    if not keys:
        found = client.list_objects_v2(Bucket="runs", Prefix=prefix).get("Contents", [])  # type: ignore[attr-defined]
        keys = tuple(entry["Key"].removeprefix(f"{prefix}/") for entry in found)
    for key in keys:
        client.delete_object(Bucket="runs", Key=f"{prefix}/{key}")  # type: ignore[attr-defined]


def changed_later(key: str) -> None:
    """Lets an object be a minute younger: a store tells seconds, and a test does not wait for one."""
    from moto.core import DEFAULT_ACCOUNT_ID
    from moto.s3.models import s3_backends

    s3_backends[DEFAULT_ACCOUNT_ID]["aws"].buckets["runs"].keys[key].last_modified += timedelta(minutes=1)


def read_train(address: str, folder: str, barrier: object) -> None:
    """Reads the train pictures of a folder data set, as a process of its own that others wait for."""
    from distill.data import FolderConfig, build_dataset
    from distill.data.remote_copies import RemoteCopiesConfig

    config = FolderConfig.model_validate({"root": address, "classes": "classes.csv"})
    dataset = build_dataset(config, "train", copies=RemoteCopiesConfig(folder=folder))
    barrier.wait()  # type: ignore[attr-defined]
    for index in range(len(dataset)):
        dataset[index]
