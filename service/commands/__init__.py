"""One file per command of the `resq` command line."""
