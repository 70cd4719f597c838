"""The end of a command that has lost Ray. Without Ray; the harness of tests/faults deals the deaths."""

from __future__ import annotations

import subprocess
import sys

from orchestrator.console.exit_codes import RAY_LOST

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
