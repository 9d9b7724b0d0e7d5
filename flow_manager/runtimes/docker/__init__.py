"""The Docker engine (20.10 / API 1.41 and newer), through aiodocker. The only home of that library."""
