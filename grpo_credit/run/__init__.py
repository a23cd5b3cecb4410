"""What surrounds one training run: its directory, its tests, its live line, its orderly end.

`lifecycle.Run` is all of it, around any trainer; a recipe has a command line of its own besides.
"""
