"""A process of Ray that dies is noticed, one that is paused is not, and none is left behind. Without Ray."""

from __future__ import annotations

import os
import queue
import socket
import subprocess
import sys
from pathlib import Path

from orchestrator.cluster.ray_watch import AGENT, RAYLET, Address, RayWatch, kill_with_descendants
from orchestrator.protocol import RayLostError

GRACE_SECONDS = 0.2


def listener() -> socket.socket:
    """A socket that listens and never accepts, as a paused process does."""
    return socket.create_server(("127.0.0.1", 0))


def address_of(server: socket.socket) -> Address:
    return Address(*server.getsockname())


def test_the_first_process_that_no_longer_listens_is_reported_once_by_its_name() -> None:
    gcs, raylet = listener(), listener()
    seen: queue.Queue[RayLostError] = queue.Queue()
    watch = RayWatch({"its GCS": address_of(gcs), "a raylet": address_of(raylet)}, GRACE_SECONDS, seen.put)
    assert watch.find_lost() is None
    assert seen.empty()
    raylet.close()
    assert str(seen.get(timeout=30)).startswith(
        "Ray lost a raylet (its process died, or its machine is gone). What"
    )
    assert str(watch.find_lost()).startswith("Ray lost a raylet")
    gcs.close()


def test_a_process_that_is_back_within_the_grace_period_is_not_lost() -> None:
    """As a GCS that its operator starts again."""
    server = listener()
    address = address_of(server)
    server.close()
    watch = RayWatch({"its GCS": address}, 60.0, lambda error: None)
    with socket.create_server(address):
        assert watch.find_lost() is None
    watch.stop()


def test_the_death_of_an_agent_is_noticed_at_once_and_its_raylet_is_stopped_before_it_breaks_connections() -> (
    None
):
    raylet, agent = (subprocess.Popen(["sleep", "300"]) for _ in range(2))
    seen: queue.Queue[RayLostError] = queue.Queue()
    watch = RayWatch({}, GRACE_SECONDS, seen.put, {raylet.pid: RAYLET, agent.pid: AGENT})
    try:
        agent.kill()
        assert str(seen.get(timeout=30)).startswith(f"Ray lost {AGENT}")
        while Path(f"/proc/{raylet.pid}/stat").read_text().split()[2] != "T":  # the signal may take a moment
            assert raylet.poll() is None
        assert seen.empty()
    finally:
        watch.stop()
        for process in (raylet, agent):
            process.kill()
            process.wait()


ORPHANS = """
import subprocess, sys
from orchestrator.cluster.ray_watch import no_process_left
child = "import subprocess; print(subprocess.Popen(['sleep', '300'], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).pid)"
with no_process_left():
    done = subprocess.run([sys.executable, "-c", child], capture_output=True, text=True)
print(done.stdout)
"""


def test_processes_whose_parent_has_died_are_ended_too() -> None:
    done = subprocess.run([sys.executable, "-c", ORPHANS], capture_output=True, text=True, check=True)
    assert not os.path.exists(f"/proc/{int(done.stdout)}")


def test_a_process_is_killed_with_all_below_it_in_one_pass() -> None:
    """A command that has lost Ray ends at once: it does not look again for what its dead children have left."""
    shell = "sh -c 'sleep 300 & echo $!; wait' & wait"
    with subprocess.Popen(["sh", "-c", shell], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        child.stdout.readline()  # the lowest process has begun
        kill_with_descendants({child.pid})
        assert child.stdout.read() == ""  # the end of the pipe: no process is left that could write into it
