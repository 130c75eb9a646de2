"""The benchmark suite of rnnfast: `python bench/run.py`. Not part of the installed package."""
