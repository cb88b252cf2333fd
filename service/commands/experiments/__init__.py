"""The paper's experiments as commands, one per file; they share `options`, `setting`, `report`."""
