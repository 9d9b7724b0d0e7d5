"""What an operator decides. Flags win over the environment, which wins over the TOML file."""
