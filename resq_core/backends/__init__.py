"""Executors that run a calibrated network on this machine; see docs/backends.md."""
