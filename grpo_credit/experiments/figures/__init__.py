"""Plots, drawn by matplotlib: inside a page in its light and dark colours, or as a file."""
