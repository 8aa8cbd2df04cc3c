"""Files and episodes in, batches out. NumPy only."""
