"""The wire: what clients send and get (wire contract, version 1). Pydantic only; no I/O."""

CONTRACT_VERSION = 1
