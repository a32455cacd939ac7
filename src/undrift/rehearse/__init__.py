"""Failure drills: the stories that undrift exists for, played against a copy of one's own project."""
