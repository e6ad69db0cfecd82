"""The version of the client: that of the distribution which it comes with."""

from importlib.metadata import version

__version__ = version("sessiond")
