"""Tests of the wire, one module for each of `sessiond_protocol`."""
