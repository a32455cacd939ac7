"""Serving: the processes of `undrift serve`, their socket, what they have loaded, and what they tell of themselves."""
