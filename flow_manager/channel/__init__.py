"""The flows' own Unix sockets: what a flow speaks (wire contract, section 7)."""
