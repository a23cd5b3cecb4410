"""How fast policies learn by a rule, on tasks whose true advantages are known."""
