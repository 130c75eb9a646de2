"""Triton kernels of `backends/triton.py`: one file per operation, each with its launcher.

Imported on first use: nothing else in the package imports Triton or these files.
"""
