"""pyro's virtual machines as environments of Harbor."""

from pyro_harbor.environment import PyroEnvironment, PyroOptions

__all__ = ["PyroEnvironment", "PyroOptions"]
