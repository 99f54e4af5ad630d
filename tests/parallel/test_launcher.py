"""Processes end with their launcher."""

import os
import subprocess
import sys
import time

import pytest

PROGRAM = """
import os, signal, sys, time
from firstlight.parallel import watch_launcher
signal.signal(signal.SIGTERM, lambda *_: (os.write(1, b"ended"), os._exit(143)))
watch_launcher()
watch_launcher()
os.write(1, b"ready ")
time.sleep(30)
"""


@pytest.mark.skipif(os.name != "posix", reason="parent processes")
def test_a_process_gets_sigterm_when_its_launcher_is_killed() -> None:
    launcher = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]])"
    with subprocess.Popen([sys.executable, "-c", launcher, PROGRAM], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.read(6) == b"ready "
        start = time.monotonic()
        process.kill()
        assert process.stdout.read() == b"ended"
        assert time.monotonic() - start < 5
