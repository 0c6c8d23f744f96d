"""trust: make the guest's programs believe the certificate authorities that the host believes, when the policy says so.

The host's bundle is appended to the image's own file, behind a line that marks ours, so that doing it again replaces
it. That file is where curl, git, apt, wget and Debian's pip look. It is also put where `update-ca-certificates` finds
it, which writes the file anew when packages are installed. Others look elsewhere and are led to it by `VARIABLES`:

    SSL_CERT_FILE        OpenSSL, hence Python's ssl module, and programs in Go and Rust
    REQUESTS_CA_BUNDLE   requests, which brings authorities of its own
    PIP_CERT             pip from anywhere but Debian, likewise
    CURL_CA_BUNDLE       a curl that was not built for Debian
    GIT_SSL_CAINFO       a git that was not built for Debian
    NODE_EXTRA_CA_CERTS  node and npm, which bring their own and add these
"""

from __future__ import annotations

from pyro_mcp.guest.boot import root_files

BUNDLE = "/etc/ssl/certs/ca-certificates.crt"
SOURCE = "/usr/local/share/ca-certificates/pyro-host.crt"
VARIABLES = {
    name: BUNDLE.encode()
    for name in (
        b"SSL_CERT_FILE",
        b"REQUESTS_CA_BUNDLE",
        b"PIP_CERT",
        b"CURL_CA_BUNDLE",
        b"GIT_SSL_CAINFO",
        b"NODE_EXTRA_CA_CERTS",
    )
}
MAX_BYTES = 16 * 1024 * 1024
MARKER = b"# The host's certificate authorities, added by pyro (--host-ca)\n"


def install(bundle: bytes, root: str = "") -> None:
    """Put `bundle` (PEM) in place below `root`. Raises `OSError`."""
    there = root_files.read(root + BUNDLE, MAX_BYTES)
    own = there.partition(MARKER)[0]
    separator = b"" if not own or own.endswith(b"\n") else b"\n"
    expected = own + separator + MARKER + bundle
    # A disk that has filled up meanwhile has no room to write the same again.
    if expected != there:
        root_files.replace(root + BUNDLE, expected)
    root_files.replace(root + SOURCE, bundle)
