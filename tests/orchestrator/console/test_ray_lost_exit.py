"""The end of a command that has lost Ray. Without Ray; the harness of tests/faults deals the deaths."""

from __future__ import annotations

import subprocess
import sys
import time

from orchestrator.console.exit_codes import RAY_LOST
from tests.faults.harness import is_running

ENDS = """
import os
from orchestrator.console.ray_lost import exit_without_ray
from orchestrator.protocol import RayLostError

class Lock:
    def release(self):
        print("what another thread says", flush=True)
        os.write(2, b"what Ray says")

exit_without_ray(RayLostError("Ray lost its GCS"), Lock())
"""


def test_nothing_is_printed_after_the_sentence_that_says_what_was_lost() -> None:
    done = subprocess.run([sys.executable, "-c", ENDS], capture_output=True, text=True, check=False)
    assert done.returncode == RAY_LOST
    assert done.stdout == ""
    [sentence] = done.stderr.splitlines()
    assert sentence.startswith("error: Ray lost its GCS")


RACES = """
import threading
from orchestrator.console.ray_lost import exit_without_ray
from orchestrator.protocol import RayLostError
from orchestrator.sweep import SweepOptions, command

released, ended = threading.Event(), threading.Event()

class Lock:
    def release(self):
        released.set()
        ended.wait(5)  # the time that the killed processes take

lost = RayLostError("Ray lost its GCS")
threading.Thread(target=exit_without_ray, args=(lost, Lock()), daemon=True).start()
released.wait()
code = command(SweepOptions(source="no such preset"))
ended.set()
raise SystemExit(code)
"""


def test_a_main_thread_that_fails_meanwhile_does_not_change_the_exit_code() -> None:
    """It may find that the lock of its folder is gone, for one."""
    done = subprocess.run([sys.executable, "-c", RACES], capture_output=True, text=True, check=False)
    assert done.returncode == RAY_LOST
    assert done.stderr.startswith("error: Ray lost its GCS")


WITH_A_RAYLET = """
import os, subprocess, sys, threading, time
from orchestrator.console.ray_lost import exit_without_ray
from orchestrator.protocol import RayLostError

raylet = subprocess.Popen([sys.executable, "-c", "input()", "raylet/raylet"], stdin=subprocess.PIPE)
other = subprocess.Popen(["sleep", "300"])
print(raylet.pid, other.pid, flush=True)
end = os._exit

def end_as_ray_does():
    raylet.wait()
    end(1)

def end_after_a_while(code):  # as a thread of a busy machine
    time.sleep(1)
    end(code)

threading.Thread(target=end_as_ray_does, daemon=True).start()
os._exit = end_after_a_while
exit_without_ray(RayLostError("Ray lost an agent"))
"""


def test_the_raylet_is_killed_only_after_the_command_has_ended() -> None:
    """Ray ends a process whose raylet dies, with exit code 1."""
    ending = subprocess.Popen([sys.executable, "-c", WITH_A_RAYLET], stdout=subprocess.PIPE, text=True)
    assert ending.stdout is not None
    left = list(map(int, ending.stdout.readline().split()))
    assert ending.wait() == RAY_LOST
    ending.stdout.close()
    while any(is_running(process) for process in left):  # up to the time limit of the test
        time.sleep(0.02)
