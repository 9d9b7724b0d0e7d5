"""Flows as containers of a Docker engine: the only home of aiodocker."""
