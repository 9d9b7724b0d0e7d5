"""The Socket.IO edge: the only home of socketio on the server's side."""
