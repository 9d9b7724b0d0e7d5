"""When a flow may sleep, and how it wakes: one watcher a flow, one table of states, leases instead of time stamps."""
