"""The version of this package, as a constant: asking the installed metadata would cost every command 15 ms."""

VERSION = "4.3.0"
