"""ContainerManager and what keeps its operations orderly."""
