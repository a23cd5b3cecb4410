"""Studies: a recipe, several credit strategies, several seeds, and a process for each of them.

The state of a study is its directory (see `cells`); nothing else is kept. No torch here: a runner
that lives as long as a hundred recipes should weigh nothing, and start at once.
"""
