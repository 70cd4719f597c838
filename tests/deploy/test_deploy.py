"""The cluster files against what reads them: ray up's own validation, and the sweep's own command line.

Kubernetes' schemas, shellcheck and hadolint are hooks of `.pre-commit-config.yaml`.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import tyro
import yaml

from orchestrator.console.exit_codes import DONE, RAY_LOST
from orchestrator.sweep import SweepOptions
from orchestrator.sweep import command as command_of
from search_spaces import preset_names
from tests import ROOT

DEPLOY = ROOT / "deploy"
CLOUDS = ["aws.yaml", "gcp.yaml"]


def rayjob() -> dict[str, Any]:
    documents = yaml.safe_load_all((DEPLOY / "rayjob.yaml").read_text())
    [found] = [document for document in documents if document["kind"] == "RayJob"]
    return found


@pytest.mark.parametrize("name", CLOUDS)
def test_ray_up_accepts_the_cluster_file(name: str) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = prepare_config(yaml.safe_load((DEPLOY / name).read_text()))
    validate_config(config)
    broken = {**config, "max_wrokers": 3}
    with pytest.raises(Exception, match="max_wrokers"):
        validate_config(broken)


@pytest.mark.parametrize("name", CLOUDS)
def test_the_head_trains_nothing_and_workers_are_spot_with_a_gpu_and_a_limit(name: str) -> None:
    config = yaml.safe_load((DEPLOY / name).read_text())
    types = config["available_node_types"]
    assert types[config["head_node_type"]]["resources"] == {"CPU": 0}
    worker = types["gpu_worker"]
    assert worker["resources"]["GPU"] == 1
    assert 0 <= worker["min_workers"] < worker["max_workers"] <= config["max_workers"]
    assert "spot" in str(worker["node_config"]).lower()


@pytest.mark.parametrize("name", CLOUDS)
def test_every_node_is_installed_by_the_lock_and_started_with_the_token(name: str) -> None:
    config = yaml.safe_load((DEPLOY / name).read_text())
    installs = [line for line in config["setup_commands"] if "pip install" in line]
    assert installs
    assert all("--constraint ~/heteroakd/constraints.txt" in line for line in installs)
    assert "~/.ray/auth_token" in config["file_mounts"]
    for commands in (config["head_start_ray_commands"], config["worker_start_ray_commands"]):
        [start] = [line for line in commands if "ray start" in line]
        assert "RAY_AUTH_MODE=token" in start
        assert "--object-store-memory=" in start
    for line in [
        *config["setup_commands"],
        *config["head_start_ray_commands"],
        *config["worker_start_ray_commands"],
    ]:
        subprocess.run(["bash", "-n", "-c", line], check=True)


NOTICE_STUBS = {
    "curl": 'echo "$*" >> "$ASKED"; case $* in *api/token*) echo secret;; *)\n'
            'grep -q instance "$NOTICES" 2>/dev/null && echo TRUE || { echo instance > "$NOTICES"; exit 22; };; esac',
    "ray": 'printf "%s\\n" "$@" > "$LOG"',
}  # fmt: skip


@pytest.mark.parametrize("cloud", ["aws", "gcp"])
def test_the_clouds_notice_drains_the_node_with_a_command_that_ray_has(tmp_path: Path, cloud: str) -> None:
    """The first question finds no notice. The cluster file starts the script on every worker."""
    from ray.scripts.scripts import drain_node

    [line] = [
        line
        for line in yaml.safe_load((DEPLOY / f"{cloud}.yaml").read_text())["worker_start_ray_commands"]
        if "spot_notice.sh" in line
    ]
    assert f"spot_notice.sh {cloud} $RAY_HEAD_IP:6379" in line
    for name, script in NOTICE_STUBS.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{script}\n")
        (tmp_path / name).chmod(0o755)
    files = {name: str(tmp_path / name.lower()) for name in ("LOG", "NOTICES", "ASKED")}
    env = {**os.environ, **files, "PATH": f"{tmp_path}:{os.environ['PATH']}", "POLL_SECONDS": "0"}
    subprocess.run([DEPLOY / "spot_notice.sh", cloud, "10.0.0.1:6379"], env=env, check=True, timeout=60)
    asked = (tmp_path / "asked").read_text()
    assert ("X-aws-ec2-metadata-token: secret" if cloud == "aws" else "Metadata-Flavor: Google") in asked
    command, *arguments = (tmp_path / "log").read_text().splitlines()
    assert command == "drain-node"
    parsed = drain_node.make_context("drain-node", arguments).params
    assert parsed["address"] == "10.0.0.1:6379"
    assert parsed["node_id"] is None, "Ray takes the node that the command runs on"
    assert parsed["reason"] == "DRAIN_NODE_REASON_PREEMPTION"
    assert parsed["deadline_remaining_seconds"] == (120 if cloud == "aws" else 30)


# The fields of KubeRay's v1 API that we use, with their types (ray-operator/apis/ray/v1/*_types.go). Its whole schema is
# not to be had from PyPI or npm.
RAYJOB = {
    "entrypoint": str, "backoffLimit": int, "shutdownAfterJobFinishes": bool, "ttlSecondsAfterFinished": int,
    "submissionMode": str, "rayClusterSpec": dict,
}  # fmt: skip
RAYCLUSTER = {
    "rayVersion": str, "authOptions": dict, "enableInTreeAutoscaling": bool, "autoscalerOptions": dict,
    "headGroupSpec": dict, "workerGroupSpecs": list,
}  # fmt: skip
GROUP = {
    "groupName": str, "replicas": int, "minReplicas": int, "maxReplicas": int, "rayStartParams": dict, "template": dict,
}  # fmt: skip


def test_the_rayjob_has_kuberays_fields_and_types_and_starts_what_this_checkout_is() -> None:
    document = rayjob()
    assert document["apiVersion"] == "ray.io/v1"
    spec = document["spec"]
    cluster = spec["rayClusterSpec"]
    head, [worker] = cluster["headGroupSpec"], cluster["workerGroupSpecs"]
    for node, types in ((spec, RAYJOB), (cluster, RAYCLUSTER), (head, GROUP), (worker, GROUP)):
        assert {key: type(value) for key, value in node.items()} == {key: types[key] for key in node}
    for group in (head, worker):  # KubeRay wants every value as text
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
    assert head["rayStartParams"]["num-cpus"] == "0"
    assert cluster["authOptions"] == {"mode": "token"}
    assert worker["minReplicas"] <= worker["replicas"] <= worker["maxReplicas"]
    [lock] = [
        line for line in (ROOT / "constraints.txt").read_text().splitlines() if line.startswith("ray==")
    ]
    assert lock == f"ray=={cluster['rayVersion']}"


def test_the_rayjobs_entrypoint_is_a_command_that_the_sweep_understands() -> None:
    import tyro

    words = shlex.split(rayjob()["spec"]["entrypoint"])
    assert words[:3] == ["python", "-m", "orchestrator.sweep"]
    options = tyro.cli(SweepOptions, args=words[3:], config=(tyro.conf.FlagCreatePairsOff,))
    assert options.address == "auto"
    assert str(options.output).startswith("s3://")


STUBS = {
    "scontrol": 'echo "scontrol $*" >> "$LOG"; [ "$1" = show ] && printf "alpha\\nbeta\\n" || true',
    "srun": 'while [[ $1 == --* ]]; do case $1 in --nodelist=*) export NODE=${1#*=};; esac; shift; done; exec "$@"',
    "hostname": "echo 10.0.0.1",
    "ray": 'echo "ray on ${NODE:-} $* token=$RAY_AUTH_TOKEN mode=$RAY_AUTH_MODE" >> "$LOG"\n'
           'if [ "$1" = start ]; then trap "echo ended $NODE >> $LOG; exit" TERM; while :; do sleep 0.05; done; fi',
    "python": '[ "$1" = -c ] && exec python3 "$@"; until [ "$(grep -c " start " "$LOG")" = 2 ]; do sleep 0.05; done\n'
              'trap "echo noticed >> $LOG; exit 130" TERM; echo "sweep $*" >> "$LOG"\n'
              '[ "$CODE" = 130 ] && while :; do sleep 0.05; done; exit "$CODE"',
}  # fmt: skip


def slurm(folder: Path, code: int, restarts: int | None = None) -> tuple[int, list[str]]:
    """The script on an allocation of two nodes whose commands only note their arguments.

    Args:
        code: exit code of the sweep. With 130 the sweep runs until it gets SIGTERM, which the script gets from Slurm.
        restarts: how often Slurm has queued the job again, as it tells a job that it has.
    """
    stubs = folder / "bin"
    stubs.mkdir()
    for name, body in STUBS.items():
        (stubs / name).write_text(f"#!/bin/bash\n{body}\n")
        (stubs / name).chmod(0o755)
    log = folder / "log"
    environment = {
        "PATH": f"{stubs}:{os.environ['PATH']}", "VENV": str(folder / "none"), "LOG": str(log), "CODE": str(code),
        "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "nodes", "SLURM_CPUS_PER_TASK": "8", "SLURM_GPUS_PER_TASK": "1",
    } | ({} if restarts is None else {"SLURM_RESTART_COUNT": str(restarts)})  # fmt: skip
    script = [str(DEPLOY / "slurm.sh"), "mine.yaml", "--output", "/shared/run"]
    with subprocess.Popen(["bash", *script], env=environment, stdout=subprocess.DEVNULL) as job:
        if code == 130:
            deadline = time.monotonic() + 60
            while not (log.exists() and "\nsweep " in log.read_text()) and time.monotonic() < deadline:
                time.sleep(0.05)
            job.terminate()
        job.wait(60)
    return job.returncode, log.read_text().splitlines()


def test_the_slurm_script_starts_every_node_with_one_token_runs_the_sweep_and_ends_all(
    tmp_path: Path,
) -> None:
    code, log = slurm(tmp_path, 3)
    assert code == 3
    starts = {line.split()[2]: line for line in log if " start " in line}
    assert set(starts) == {"alpha", "beta"}
    assert "--head --node-ip-address=10.0.0.1" in starts["alpha"]
    assert "--address=10.0.0.1:20007" in starts["beta"]
    assert all("--num-cpus=8 --num-gpus=1" in line and "mode=token" in line for line in starts.values())
    tokens = {re.search(r"token=(\w{64}) ", line)[1] for line in starts.values()}  # type: ignore[index]
    assert len(tokens) == 1
    [sweep] = [line for line in log if line.startswith("sweep")]
    assert sweep.startswith(
        "sweep -m orchestrator.sweep mine.yaml --output /shared/run --address 10.0.0.1:20007"
    )
    assert {line for line in log if line.startswith("ended")} == {"ended alpha", "ended beta"}
    assert not [line for line in log if "requeue" in line]


def test_slurms_notice_reaches_the_sweep_and_the_job_is_queued_again(tmp_path: Path) -> None:
    assert "#SBATCH --signal=B:TERM@300" in (DEPLOY / "slurm.sh").read_text().splitlines()
    code, log = slurm(tmp_path, 130)
    assert code == 130
    assert log.count("noticed") == 1
    assert "scontrol requeue 7" in log


@pytest.mark.parametrize(("restarts", "again"), [(None, True), (9, True), (10, False)])
def test_a_sweep_that_lost_ray_is_queued_again_ten_times(
    tmp_path: Path, restarts: int | None, again: bool
) -> None:
    code, log = slurm(tmp_path, RAY_LOST, restarts)
    assert code == RAY_LOST
    assert ("scontrol requeue 7" in log) == again


def test_the_image_copies_what_is_there_installs_by_the_lock_and_runs_as_nobody_special() -> None:
    lines = (DEPLOY / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    for line in lines:
        if line.startswith("COPY"):
            for path in line.split()[1:-1]:
                assert (ROOT / path).exists()
                assert f"!{path}" in ignored
        if "pip install" in line:
            assert "--constraint constraints.txt" in line
    users = [line.split()[1] for line in lines if line.startswith("USER")]
    assert users[-1] not in ("0", "root")


def commands_of(page: Path) -> list[str]:
    """Every sweep command of a page's shell blocks."""
    blocks = re.findall(r"```(?:sh|console)\n(.*?)```", page.read_text(), re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line.removeprefix("$ ").strip() for line in lines if "-m orchestrator.sweep " in line]


@pytest.mark.parametrize("page", ["docs/cluster.md", "README.md"])
def test_every_sweep_command_of_the_pages_is_one_that_the_sweep_understands(page: str) -> None:
    import tyro

    found = commands_of(ROOT / page)
    assert found
    for line in found:
        words = shlex.split(line.split(" | ")[0], comments=True)
        options = tyro.cli(
            SweepOptions,
            args=words[words.index("orchestrator.sweep") + 1 :],
            config=(tyro.conf.FlagCreatePairsOff,),
        )
        assert options.source.endswith(".yaml") or options.source in preset_names()


def test_every_yaml_of_the_clusters_page_is_a_part_of_a_sweep_file() -> None:
    from orchestrator.planning.config import SweepConfig

    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "cluster.md").read_text(), re.DOTALL)
    assert blocks
    for block in blocks:
        for key, value in yaml.safe_load(block).items():
            SweepConfig.__pydantic_validator__.validate_assignment(SweepConfig.model_construct(), key, value)


def test_the_pages_dry_run_is_what_the_command_prints(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (ROOT / "docs" / "cluster.md").read_text()
    command, printed = re.search(
        r"```console\n\$ (python -m orchestrator\.sweep [^\n]+)\n(.*?)```", page, re.DOTALL
    ).groups()  # type: ignore[union-attr]
    monkeypatch.chdir(ROOT)
    typed = shlex.split(command.removeprefix("python -m orchestrator.sweep "))
    assert command_of(tyro.cli(SweepOptions, args=typed, config=(tyro.conf.FlagCreatePairsOff,))) == DONE
    # The plan's hash changes with the program; everything else is a promise of the page.
    told, now = (
        re.sub(r"plan [0-9a-f]{12}", "plan", text.strip()) for text in (printed, capsys.readouterr().out)
    )
    assert now == told
