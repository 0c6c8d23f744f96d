"""A machine step by step: create, start, look, run, and gone: `python examples/python_lifecycle.py`."""

from pyro_mcp import NotFound, Pyro

with Pyro() as pyro:
    machine = pyro.create_vm("debian:12", vcpu_count=1, mem_mib=512, ttl_seconds=300)
    try:
        started = pyro.start_vm(machine.vm_id)
        print(f"{machine.vm_id}: {started.state}, {started.mem_mib} MiB, isolation: {started.isolation}")
        print(f"network: {pyro.network_info_vm(machine.vm_id).network_enabled}")
        # It takes one command and is deleted with it; what should stay is a workspace.
        result = pyro.exec_vm(machine.vm_id, command=["uname", "-sr"])
        print(f"{result.stdout.strip()}, deleted: {result.cleanup.deleted}")
    except BaseException:
        pyro.delete_vm(machine.vm_id)
        raise
    try:
        pyro.status_vm(machine.vm_id)
    except NotFound as error:
        print(error.message)
