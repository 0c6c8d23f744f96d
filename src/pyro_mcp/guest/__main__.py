"""`python -m pyro_mcp.guest`: the agent."""

import sys

from pyro_mcp.guest.main import main

sys.exit(main())
