"""Trust: the certificates that this host trusts, for a guest that shall trust them too."""

from __future__ import annotations

import re
from pathlib import Path

from pyro_mcp.errors import InvalidArgument, NotFound, PermissionDenied

BUNDLE_MAX = 4 * 1024 * 1024
_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----\s+[A-Za-z0-9+/=\s]+-----END CERTIFICATE-----")
_HINT = (
    "Leave <<create_workspace.host_ca>> out, or set ca_file (PYRO_CA_FILE) to this host's bundle of certificates in PEM"
    " form"
)


def host_bundle(path: Path) -> bytes:
    """The certificates in the PEM file `path`, and nothing else that may stand there, such as a key.

    Raises `NotFound`, `PermissionDenied` or `InvalidArgument`.
    """
    try:
        with path.open("rb") as file:
            text = file.read(BUNDLE_MAX + 1)
    except PermissionError:
        raise PermissionDenied(f"cannot read this host's certificates: {path} may not be read", hint=_HINT) from None
    except OSError as error:
        raise NotFound(f"cannot read this host's certificates: {path}: {error.strerror}", hint=_HINT) from None
    if len(text) > BUNDLE_MAX:
        raise InvalidArgument(f"cannot hand on {path}: it is larger than {BUNDLE_MAX >> 20} MiB", hint=_HINT)
    found = _CERTIFICATE.findall(text)
    if not found:
        raise InvalidArgument(f"cannot hand on {path}: there is no certificate in PEM form in it", hint=_HINT)
    return b"\n".join(found) + b"\n"
