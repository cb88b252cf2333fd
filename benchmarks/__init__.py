"""What the project measures about itself; see `benchmarks.cpu`, `benchmarks.table`."""
