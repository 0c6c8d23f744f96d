"""`python -m pyro_mcp` is `pyro`."""

from __future__ import annotations

import sys

from pyro_mcp.surfaces.cli.main import main

sys.exit(main())
