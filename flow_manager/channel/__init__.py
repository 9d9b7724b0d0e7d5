"""The flows' own Unix sockets."""
