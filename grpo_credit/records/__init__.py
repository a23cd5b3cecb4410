"""What a run leaves on disk: whole files, tables, checkpoints, a manifest, one writer."""
