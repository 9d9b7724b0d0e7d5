"""Flows as LXC containers on Proxmox VE. What its API really does, and where it surprises, is said where it is met."""
