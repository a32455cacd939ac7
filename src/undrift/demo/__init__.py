"""The demo: the whole life of a model on the New York flights of 2013, with failures planted and their truth known."""
