"""Credit: what a strategy sees, the rules, their laws. Torch, and never TRL."""
