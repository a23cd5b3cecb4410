"""Reports over strategies and seeds: the statistics, the data, the offline page.

Imports neither torch nor trl: a report can be rendered again where nothing was trained.
"""
