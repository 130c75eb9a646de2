"""What each subcommand of `rnnfast` does: `run(options) -> int`. The parser is in `cli.py`."""
