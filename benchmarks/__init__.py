"""Each figure of the README is printed by one command: `python -m benchmarks` (`make bench`)."""
