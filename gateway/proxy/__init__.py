"""The data plane: one request from socket to settlement. Start reading in ``pipeline``."""
