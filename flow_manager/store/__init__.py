"""What outlives the process: flows, activity, and the replies of repeated requests."""
