"""What runs flows. One protocol (`base`), one contract suite (`tests/contract`) that every implementation passes."""
