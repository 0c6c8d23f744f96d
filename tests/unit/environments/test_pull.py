"""A real pull, killed in the middle and then finished. Takes about half a minute and the archive."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.conftest import processes_mentioning

from pyro_mcp.environments.bootstrap import confined
from pyro_mcp.environments.store import EnvironmentStore
from pyro_mcp.settings import Settings

PULL = """
import sys
from pyro_mcp.environments.store import EnvironmentStore
from pyro_mcp.settings import Settings
store = EnvironmentStore(Settings.load(cache_dir=sys.argv[1]))
store.pull("debian:12-base", lambda message, fraction: print(message, flush=True))
"""


@pytest.mark.slow
def test_a_killed_pull_leaves_nothing_half_installed(settings: Settings, store: EnvironmentStore) -> None:
    argv = [sys.executable, "-c", PULL, str(settings.cache_dir)]
    puller = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    assert puller.stdout is not None
    for line in puller.stdout:
        if line.startswith("Installing the base"):
            break
    time.sleep(1)
    puller.send_signal(signal.SIGKILL)
    puller.wait()
    puller.stdout.close()

    wait_until_gone(str(settings.cache_dir))
    assert str(settings.cache_dir) not in Path("/proc/self/mountinfo").read_text()
    assert not store.inspect("debian:12-base").installed

    image = store.ensure("debian:12-base")
    environment = store.inspect("debian:12-base")
    assert {"bash", "apt", "coreutils"} <= set(environment.packages)
    assert environment.source
    assert not [name for name in os.listdir(settings.cache_dir / "environments") if name.startswith(".build")]
    assert_nothing_of_the_host(image.path)


def wait_until_gone(text: str) -> None:
    deadline = time.monotonic() + 5
    while processes_mentioning(text) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert processes_mentioning(text) == []


def assert_nothing_of_the_host(image: Path) -> None:
    tree = image.parent.parent / "extracted"
    try:
        confined(["fsck.erofs", f"--extract={tree}", str(image)])
        for trace in ("etc/resolv.conf", "etc/hostname", "etc/apt/apt.conf.d/99mmdebstrap", "dev/null"):
            assert not (tree / trace).exists(), trace
        sources = (tree / "etc/apt/sources.list").read_text()
        assert not re.search(r"://[^/ ]*@", sources)
        assert (tree / "usr/bin/apt-get").exists()
    finally:
        confined(["rm", "-rf", str(tree)])
