"""Protocols: requests and answers in the shapes that the field's clients speak; bytes and rows, no sockets."""
