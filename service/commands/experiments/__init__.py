"""The paper's experiments as commands, one per file; `setting` and `report` are what they share."""
