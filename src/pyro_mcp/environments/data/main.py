"""The agent's start inside a guest, run as process 1 by the runtime's own Python, without site packages."""

import os
import sys

sys.path.insert(0, os.path.dirname(__file__))

from pyro_mcp.guest.main import main

sys.exit(main([]))
