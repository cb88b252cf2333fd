"""The streaming service around resq_core."""
