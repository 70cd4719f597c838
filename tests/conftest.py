"""What all tests share: the environment, set before anything is imported."""

from __future__ import annotations

import os
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
from filelock import FileLock

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
# Threads decide the order of sums, and with it the last bits; TEST_THREADS shows that no verdict depends on them.
os.environ["OMP_NUM_THREADS"] = os.environ.get("TEST_THREADS", "1")

hypothesis.settings.register_profile(
    "any load", deadline=None
)  # no verdict depends on how busy the machine is
hypothesis.settings.load_profile("any load")

TAKE_SECONDS = ("next_losses", "onnx_export", "compiled_models")
"""Parts of the names of tests that take seconds for each network: further networks are left to `make test-long`."""


SLOW_FILES = (
    "test_leaderboard_page.py",
    "test_gallery.py",
    "test_fuzz_pictures.py",
    "test_fuzz_sweep_files.py",
    "test_fuzz_tables.py",
    "test_fuzz_weights.py",
    "test_repair.py",
    "test_bucket.py",
    "test_build.py",
    "test_grown_run.py",
    "test_planted_files.py",
    "test_rounds.py",
    "test_teacher_layouts.py",
    "test_teachers.py",
    "test_pretrained.py",
    "test_device_steps.py",
)
"""Files with a browser or a store, with hundreds of generated inputs, with whole runs, or with large networks."""
SLOW_TESTS = (
    "next_losses",
    "an_encoding_without_some_characters",
    "of_100_commands_that_start_at_once",
    "wrong_by_three_per_mille",
    "no_step_leaves_float64",
    "test_estimated_cost_is_within_a_fifth",
    "test_training_a_teachers_projector",
    "operations_are_counted_without_memory",
    "on_one_value_is_refused",
    "are_those_of_the_librarys_processor",
    "test_entries_equal_what_timm_says_now",
    "that_does_not_fit_is_refused_before_anything_runs",
    "test_twins_told_by",
    "pictures_of_ones_own_is_checked_and_planned",
    "test_reading_a_run_imports_neither",
    "needs_neither_torch_nor_ray",
    "trained_beside_each_other_end_as",
    "a_reader_that_takes_one_line_ends",
    "same_to_the_bit_alone_and_in_company[cwd]",
    "as_if_nothing_had_happened[cwd",
    "as_if_nothing_had_happened[kd",
    "starts_from_the_file_its_authors_publish",
)
"""Parts of the names of other tests that `make check` leaves out."""


GOLDEN_IN_QUICK_LOOP = ("cirkd", "heteroakd")
"""Methods whose golden curves are drawn again by `make check`: a queue, projectors."""
CONFORMANCE_LEFT_OUT = tuple(
    f"Test{name}"
    for name in ("AT", "AfDCD", "BPKD", "CIRKD", "CWD", "DIST", "FitNet", "IFVD", "MGD", "OFA", "SKD")
)
"""Methods whose conformance `make check` leaves out. It tests no term, one term, a queue, projectors, and every new method."""


def pytest_collection_modifyitems(items: list) -> None:
    """Files that start Ray come first: they take longest, and two workers share them best at the start."""
    slow = {item.path for item in items if item.get_closest_marker("ray")}
    items.sort(key=lambda item: item.path not in slow)
    for item in items:
        if _is_left_to_test_long(item):
            item.add_marker("long")
        elif (
            _is_a_further_network(item)
            or item.path.name in SLOW_FILES
            or any(name in item.nodeid for name in SLOW_TESTS)
        ):
            item.add_marker("slow")


def _is_left_to_test_long(item: pytest.Item) -> bool:
    """Whether a test repeats on a further network what CI tests on others, and all its repetitions take long."""
    params = item.callspec.params if hasattr(item, "callspec") else {}
    if item.path.name == "test_method_conformance.py" and "pair" in params:
        takes_seconds = any(name in item.name for name in TAKE_SECONDS) or bool(params.get("config"))
        return takes_seconds and "transformer-teaches-cnn" not in item.name
    if item.path.name == "test_head_conformance.py" and "what_is_saved" in item.name:
        return _is_a_further_network(item) and not params["model"].startswith("segformer-")
    if "wrong_by_three_per_mille" in item.name:
        return params["wrong"].__name__ == "wrong_value" and params["name"] != "heteroakd"
    return any(name in item.name for name in TAKE_SECONDS) and _is_a_further_network(item)


def _is_a_further_network(item: pytest.Item) -> bool:
    """Whether a conformance test repeats on further networks, methods or settings what the quick loop tests on a few."""
    params = item.callspec.params if hasattr(item, "callspec") else {}
    if item.path.name == "test_method_conformance.py" and "pair" in params:
        further = "two_workers" in item.name and bool(params["config"])
        left_out = item.cls is not None and item.cls.__name__ in CONFORMANCE_LEFT_OUT
        return further or left_out or "transformer-teaches-cnn" not in item.name
    if item.path.name == "test_golden_curves.py" and "training_goes_as" in item.name:
        return params["name"] not in GOLDEN_IN_QUICK_LOOP
    if item.path.name == "test_head_conformance.py" and "model" in params:
        return not params["model"].endswith(("-test_resnet", "-test_vit"))
    return False


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of `small.yaml` that nobody disturbed; one for all processes of the test run. Not to be written into."""
    from tests.orchestrator.sweeps import SMALL, run

    parallel = "PYTEST_XDIST_WORKER" in os.environ
    base = tmp_path_factory.getbasetemp().parent if parallel else tmp_path_factory.getbasetemp()
    output = base / "undisturbed" / "run"
    output.parent.mkdir(exist_ok=True)
    with FileLock(output.with_suffix(".lock")):
        if not (output / "leaderboard").exists():
            sweep = run(SMALL, output)
            assert sweep.process.returncode == 0, sweep.text()
    return output


@pytest.fixture
def s3_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An S3 server on a free port of this machine with a bucket `runs`; gives host:port."""
    import boto3
    from moto.server import ThreadedMotoServer

    from tests.distill.data.buckets import S3_ENVIRONMENT

    for name, value in S3_ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    # Servers of one process share their buckets.
    urllib.request.urlopen(
        urllib.request.Request(f"http://{host}:{port}/moto-api/reset", method="POST")
    ).close()
    boto3.client("s3", endpoint_url=f"http://{host}:{port}", region_name="us-east-1").create_bucket(
        Bucket="runs"
    )
    yield f"{host}:{port}"
    server.stop()


@pytest.fixture
def nodes_env(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The environment of Ray nodes, whose token this process, and every command it starts, has too."""
    from tests.orchestrator import ray_nodes

    env = ray_nodes.environment()
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
        monkeypatch.setenv(name, env[name])
    return env
