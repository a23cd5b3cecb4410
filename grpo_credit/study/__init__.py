"""Studies: strategies × seeds of a recipe, and the data that they leave."""
