"""Makes `fleetlab` and `agentlab` importable: engines and agents that need no virtualisation."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from agentlab import lab, scripted  # noqa: F401
