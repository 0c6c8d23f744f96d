"""A server in a workspace, waited for and reached from this host: `python examples/python_services.py`."""

import socket

from pyro_mcp import Pyro

# Perl is in every Debian; a real workspace would start its own server.
SERVER = """\
use strict; use IO::Socket::INET; $| = 1;
my $listening = IO::Socket::INET->new(Listen => 5, LocalAddr => "127.0.0.1", LocalPort => 8000, ReuseAddr => 1) or die;
while (my $one = $listening->accept) { print "one came\\n"; print $one "hello from the guest\\n"; close $one }
"""

with Pyro() as pyro:
    workspace = pyro.create_workspace(environment="debian:12", network_policy="egress+published-ports")
    try:
        name = workspace.workspace_id
        pyro.write_workspace_file(name, "server.pl", text=SERVER)
        service = pyro.start_service(
            name,
            "greeter",
            command=["perl", "server.pl"],
            readiness={"tcp": "127.0.0.1:8000"},
            restart="on-failure",
            published_ports=[8000],
        )
        (port,) = service.published_ports
        print(f"{service.service_name}: {service.state}")
        with socket.create_connection((port.host, port.host_port)) as connection:
            print(connection.makefile().readline(), end="")
        print(pyro.logs_service(name, "greeter").stdout, end="")
        print(pyro.stop_service(name, "greeter").state)
    finally:
        pyro.delete_workspace(workspace.workspace_id)
