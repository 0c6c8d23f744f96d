"""pyro's virtual machines as sandboxes of the OpenAI Agents SDK."""

from pyro_openai_agents.client import PyroSandboxClient, PyroSandboxClientOptions
from pyro_openai_agents.session import PyroSandboxSession, PyroSandboxSessionState

__all__ = ["PyroSandboxClient", "PyroSandboxClientOptions", "PyroSandboxSession", "PyroSandboxSessionState"]
