"""The command line: each verb a thin client of the wire contract."""
