"""Programs for work on the kernels."""
