"""Flow manager: run, talk to and watch containers in real time."""

__version__ = "0.1.0"
