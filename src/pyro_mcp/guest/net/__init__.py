"""A guest's way out when its policy has one: no card, only streams that the host answers.

    link       an interface that leads nowhere, so that programs find a route and try at all
    rules      the packet filter: every new connection waits for the host's word, the rest is refused at once
    queue      where it waits
    egress     connections: asked for, let go or refused, then carried
    dns        what programs ask about names, and `resolver`, which has the host answer it
    host       questions to the host, through whatever channel there is
    loop       the one thread on which all this happens, but the carrying
    drivers    the kernel's part
    network    the verb `network_up`, which starts it

Root in the guest may undo any of it. Then its programs reach nothing: the only way out is the stream, and who may go
where is decided by the host alone.
"""
