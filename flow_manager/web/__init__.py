"""The HTTP edge of the control port."""
