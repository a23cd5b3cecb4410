"""What surrounds one training run: its directory, its manifest, its callbacks, its summary.

Nothing here knows about credit, rewards or a trainer class. A recipe calls, in this order:

1. `data.load_prompts` and `models.look_up_model` check what is there, `directory.choose` picks the
   run directory;
2. `manifest.manifest` describes the run, `directory.claim` takes the directory or refuses, both
   before the trainer is constructed;
3. `callbacks.StopOnSignal`, `callbacks.MetricsJsonl`, `callbacks.LiveLine` go into the trainer;
4. `manifest.recorded` wraps the rest and writes how it ended;
5. `summary.before_after` and `summary.where` close the run.

Under several ranks, call everything on every rank: only the main process writes and prints. The
training arguments must exist first, since constructing them starts the process group.
"""
