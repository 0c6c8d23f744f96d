"""Hosts: the programs that start `pyro mcp serve`, and the entries of theirs that make them do so."""
