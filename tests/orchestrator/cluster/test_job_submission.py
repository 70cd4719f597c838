"""A sweep on an existing cluster: submitted as a job, or joined. What a node lacks is reported before the first trial."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pytest
import ray.cloudpickle
import tyro

from distill.errors import UsageError
from orchestrator.cluster import job_submission as submission
from orchestrator.cluster import node_probe as probe
from orchestrator.cluster.job_submission import arguments_of, stage
from orchestrator.cluster.provenance import LIBRARIES, commit_of_this_code
from orchestrator.console.exit_codes import USAGE
from orchestrator.ledger.folder_lock import hold_run_folder, holder_of
from orchestrator.ledger.tables import Ledger
from orchestrator.planning.loader import load_sweep
from orchestrator.planning.plan import make_plan
from orchestrator.sweep import SweepOptions, command
from tests.distill.data.buckets import S3_ENVIRONMENT, at
from tests.orchestrator import ray_nodes
from tests.orchestrator.ray_nodes import free_port

INTERRUPTED = 130


@dataclass
class RayStart:
    """Two nodes, each from `ray start`, with a token and a dashboard."""

    gcs: str
    dashboard: str
    environment: dict[str, str]

    def sweep(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "orchestrator.sweep", *arguments],
            env={**self.environment, **environment}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def nodes(self) -> int:
        request = urllib.request.Request(
            f"{self.dashboard}/nodes?view=summary",
            headers={"Authorization": f"Bearer {self.environment['RAY_AUTH_TOKEN']}"},
        )
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                return int(answer.read().decode().count('"state": "ALIVE"'))
        except (OSError, urllib.error.URLError):
            return 0


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayStart]:
    pytest.importorskip("aiohttp", reason="the job client comes with ray[default]")
    port, dashboard, env = free_port(), free_port(), {**ray_nodes.environment(), **S3_ENVIRONMENT}
    found = RayStart(f"127.0.0.2:{port}", f"http://127.0.0.1:{dashboard}", env)
    nodes = []
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        log = Path(folder) / "start.log"
        try:
            nodes += [ray_nodes.start(
                "--head", "--num-cpus=1", "--node-ip-address=127.0.0.2", f"--port={port}", f"--temp-dir={folder}",
                "--include-dashboard=true", f"--dashboard-port={dashboard}",
                f"--dashboard-agent-listen-port={free_port()}", env=env, log=log,
            )]  # fmt: skip
            wait_for_nodes(found, 1, log)
            # A separate folder, as on a separate machine: the code of a job is unpacked there.
            nodes += [ray_nodes.start(
                f"--address={found.gcs}", "--num-cpus=1", "--node-ip-address=127.0.0.3", f"--temp-dir={folder}/2",
                f"--dashboard-agent-listen-port={free_port()}", env=env, log=log,
            )]  # fmt: skip
            wait_for_nodes(found, 2, log)
            yield found
        finally:
            ray_nodes.end(nodes)


def wait_for_nodes(cluster: RayStart, count: int, log: Path) -> None:
    deadline = time.monotonic() + 180
    while cluster.nodes() < count:
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)


@pytest.mark.ray
@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_job_runs_the_sweep_over_both_nodes_into_a_bucket_and_outlives_the_terminal_that_follows_it(
    cluster: RayStart, s3_server: str
) -> None:
    run = at(s3_server, "run")
    commit, _ = commit_of_this_code()
    command = ["smoke", "--output", run, "--address", f"job:{cluster.dashboard}"]
    first = cluster.sweep(*command)
    assert first.stdout is not None
    seen = ""
    for line in first.stdout:
        seen += line
        if "worker-hours" in line:
            break
    first.send_signal(signal.SIGINT)
    rest, _ = first.communicate(timeout=300)
    assert first.returncode == INTERRUPTED, seen + rest
    assert "the job goes on without this terminal" in rest
    again = cluster.sweep(*command)
    text, _ = again.communicate(timeout=400)
    assert "runs this command already; following it" in text
    assert again.returncode == 0, text
    ledger = Ledger(run)
    planned = sum(cohort.trials for cohort in make_plan(load_sweep("smoke")).students)
    assert sum(row["phase"] != "teacher" for row in ledger.read("trials", ["phase"]).to_pylist()) == planned
    assert ledger.exists("leaderboard/LEADERBOARD.md")
    assert {row["commit"] for row in ledger.read("provenance").to_pylist()} == {commit}


@pytest.mark.ray
@pytest.mark.long
def test_what_a_node_lacks_is_said_by_the_job_with_the_nodes_name_before_the_first_trial(
    cluster: RayStart, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    sweep = cluster.sweep(
        "smoke", "--output", str(run), "--address", f"job:{cluster.dashboard}",
        "--set", "operation.cache={folder: /proc/nothing, gigabytes: 1}",
    )  # fmt: skip
    text, _ = sweep.communicate(timeout=240)
    assert sweep.returncode == USAGE, text
    assert text.count("/proc/nothing cannot be written") == 2, text
    assert "node 127.0.0.2" in text
    assert not (run / "tables").exists()


@pytest.mark.ray
@pytest.mark.long
def test_a_job_without_the_clusters_token_is_refused_with_the_remedy(
    cluster: RayStart, tmp_path: Path
) -> None:
    sweep = cluster.sweep(
        "smoke", "--output", str(tmp_path), "--address", f"job:{cluster.dashboard}", RAY_AUTH_TOKEN="0" * 64
    )
    text, _ = sweep.communicate(timeout=60)
    assert sweep.returncode == USAGE, text
    assert "RAY_AUTH_TOKEN must be set here as it is there" in text


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (SweepOptions(source="smoke", address="ray://head:10001"), "--address job:http://HOST:8265"),
        (SweepOptions(source="smoke", address="job:http://127.0.0.1:1"), "--output is not given"),
        (
            SweepOptions(source="smoke", address="job", output="runs/mine"),
            "--output is runs/mine.*s3://bucket/run",
        ),
    ],
)
def test_an_address_that_cannot_work_says_what_to_type_instead(
    options: SweepOptions, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(options) == USAGE
    assert re.search(said, capsys.readouterr().err, re.DOTALL)


class Head:
    """Job client that refuses a number of times before it accepts a job."""

    def __init__(self, refusals: int, answer: str) -> None:
        self.refusals, self.answer = refusals, answer

    def submit_job(self, **what: object) -> str:
        self.refusals -= 1
        if self.refusals >= 0:
            raise RuntimeError(f"Request failed with status code 500: {self.answer}")
        return "raysubmit_1"


def test_a_job_is_submitted_again_to_a_cluster_that_has_just_started_and_another_refusal_is_an_error() -> (
    None
):
    assert (
        submission._submit_when_ready(
            Head(1, f"{submission._NO_AGENT_YET}, please try again later."), entrypoint=""
        )
        == "raysubmit_1"
    )
    with pytest.raises(UsageError, match=r"did not take the job.*no space left"):
        submission._submit_when_ready(Head(1, "no space left on device"), entrypoint="")


def needs(ledger: Ledger, **changes: object) -> dict[str, object]:
    code = probe.code_hash()
    assert code is not None
    asked = probe.NodeRequirements(
        probe.versions_of(LIBRARIES), code, (), (), (), ledger.root, holder_of(ledger), True, False
    )
    return {**asdict(asked), **changes}


def test_a_node_that_has_everything_lacks_nothing(tmp_path: Path) -> None:
    with hold_run_folder(ledger := Ledger(tmp_path)):
        assert probe.probe_node(needs(ledger)) == []


def test_versions_code_data_and_folder_are_each_named_when_they_differ(tmp_path: Path) -> None:
    with hold_run_folder(ledger := Ledger(tmp_path)):
        changed = needs(
            ledger, versions={"numpy": "0.1", "nowhere": "2"}, code="another", readable=("/no/such/root",),
        )  # fmt: skip
        found = "\n".join(probe.probe_node(changed))
        assert "the sweep has 0.1; pip install --constraint constraints.txt" in found
        assert "nowhere is not installed, the sweep has 2" in found
        assert "another version of our code" in found
        assert "/no/such/root cannot be read; copy it there" in found
        [elsewhere] = probe.probe_node(needs(ledger, output=str(tmp_path / "elsewhere")))
        assert "is not the sweep's; give --output a folder that all nodes share" in elsewhere
        [another] = probe.probe_node(needs(ledger, holder={"host": "someone", "pid": 1}))
        assert "is another one" in another
        assert probe.probe_node(needs(ledger, output="/elsewhere", readable=("/none",), trains=False)) == []


def test_a_node_says_whether_a_bucket_of_pictures_answers_it(s3_server: str, tmp_path: Path) -> None:
    here, nowhere = (
        f"s3://{bucket}/data?scheme=http&endpoint_override={s3_server}&region=us-east-1"
        for bucket in ("runs", "nowhere")
    )
    Ledger(here).write_bytes("images/a.png", b"a")
    with hold_run_folder(ledger := Ledger(tmp_path)):
        assert probe.probe_node(needs(ledger, buckets=(here,))) == []
        [missing] = probe.probe_node(needs(ledger, buckets=(here, nowhere)))
        assert missing.startswith("s3://nowhere/data does not exist; put the data there, or give the node's")
        assert probe.probe_node(needs(ledger, buckets=(nowhere,), trains=False)) == []


def test_a_node_where_our_code_is_not_installed_can_still_be_asked(tmp_path: Path) -> None:
    with hold_run_folder(ledger := Ledger(tmp_path)):
        asked = needs(ledger)
    ray.cloudpickle.register_pickle_by_value(probe)
    try:
        sent = ray.cloudpickle.dumps((probe.probe_node, asked))
    finally:
        ray.cloudpickle.unregister_pickle_by_value(probe)
    # Without the .pth files of site, the editable installation of the checkout is not found.
    script = "import sys; sys.path += {}; import pickle; probe, needs = pickle.loads({}); print(probe(needs))"
    folders = [path for path in sys.path if path.endswith("site-packages")]
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", script.format(folders, sent)], cwd=tmp_path, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert (
        "our code is not installed; install this checkout there, or let it travel: --address job"
        in done.stdout
    )


def test_the_working_directory_of_a_job_has_code_lock_file_and_sweep_file_only(tmp_path: Path) -> None:
    source = tmp_path / "mine.yaml"
    source.write_text("name: mine")
    folder = tmp_path / "staged"
    folder.mkdir()
    assert stage(folder, str(source), "name: mine") == "mine.yaml"
    assert {path.name for path in folder.iterdir()} == {
        "orchestrator", "distill", "search_spaces", "constraints.txt", "pyproject.toml", "commit.json", "mine.yaml",
    }  # fmt: skip
    assert not list(folder.rglob("__pycache__"))


def test_a_job_runs_the_same_command() -> None:
    options = SweepOptions(
        source="smoke", set=["final.seeds=[1]", "search.trials=2"], output="/shared/run", max_cost=2.5, price_per_hour="3",
        retry_failed=True,
    )  # fmt: skip
    typed = ["smoke", *arguments_of(replace(options, address="job"))]
    assert tyro.cli(SweepOptions, args=typed, config=(tyro.conf.FlagCreatePairsOff,)) == options
