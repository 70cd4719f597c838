"""What a node lacks is reported before the first trial, or when the node joins."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.orchestrator import ray_nodes

PREFLIGHT = """
import sys, time
from orchestrator.cluster.session import ray_session
from orchestrator.ledger.tables import Ledger
from orchestrator.ledger.folder_lock import hold_run_folder
from orchestrator.planning.loader import load_sweep
config = load_sweep("smoke", ["operation.cache.folder=~/kept", "operation.cache.gigabytes=1"])
with hold_run_folder(ledger := Ledger(sys.argv[2])), ray_session(sys.argv[1], config.operation, verbose=False):
    from orchestrator.cluster.preflight import Preflight
    preflight = Preflight(config, ledger)
    preflight.check()
    print("ready", preflight.check_new_nodes(), flush=True)
    sys.stdin.readline()
    while not (found := preflight.check_new_nodes()):
        time.sleep(0.1)
    print(*found, sep="\\n", flush=True)
    print("then", preflight.check_new_nodes(), flush=True)
    try:
        Preflight(config, ledger).check()
    except ValueError as error:
        print(error)
"""


@pytest.mark.ray
@pytest.mark.long
@pytest.mark.timeout(300)
def test_a_node_that_joins_later_is_checked_once_and_one_that_was_there_must_have_everything(
    nodes_env: dict[str, str], tmp_path: Path
) -> None:
    """The nodes share a disk. So the second node gets a home folder that cannot be written."""
    (tmp_path / "home").mkdir()
    home = {"HOME": str(tmp_path / "home")}
    with ray_nodes.Cluster(tmp_path, nodes_env | home, nodes=1) as cluster:
        command = [sys.executable, "-c", PREFLIGHT, cluster.address, str(tmp_path / "run")]
        with subprocess.Popen(
            command, env=nodes_env | home, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as sweep:
            assert sweep.stdin is not None
            assert sweep.stdout is not None
            assert sweep.stdout.readline() == "ready []\n"
            cluster.add(HOME="/dev/null")
            said, _ = sweep.communicate("joined\n", timeout=240)
    lacks = "~/kept cannot be written (Not a directory); choose another folder"
    first, then, *refused = said.splitlines()
    assert first.startswith("node 127.0.0.4 (")
    assert first.endswith(lacks)
    assert then == "then []"
    assert refused[0] == "the cluster lacks what this sweep needs:"
    assert refused[1].strip() == first
