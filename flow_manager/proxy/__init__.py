"""The wake proxy: HTTP, WebSocket and TCP that wake a sleeping flow, and cost little when it is awake."""
