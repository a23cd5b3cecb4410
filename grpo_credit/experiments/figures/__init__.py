"""Figures as inline SVG, without a script: the page's own style gives them light and dark."""
