"""The user-visible log of what happened."""
