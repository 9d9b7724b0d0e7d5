"""`python -m flow_manager` is the program `flow-manager`."""

from flow_manager.cli.main import main

main()
