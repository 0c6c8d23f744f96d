"""SHA-256 without `hashlib`: a guest's Python has no OpenSSL, and that module then complains on import."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hashlib import sha256
else:
    try:
        from _hashlib import openssl_sha256 as sha256
    except ImportError:
        try:
            from _sha256 import sha256
        except ImportError:  # Python 3.12 and later
            from _sha2 import sha256

__all__ = ["sha256"]
