"""The version of this installation, from its own metadata."""

from importlib.metadata import version

VERSION = version("sessiond")
