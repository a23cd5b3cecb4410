"""TRL's trainer with the credit matrix in it; the only room that imports TRL."""
