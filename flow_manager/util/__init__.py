"""Small helpers that know nothing of flows."""
