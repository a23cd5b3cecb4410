"""What a configuration means, and why it would not learn, before a training step is paid for.

`plan` is arithmetic on the configuration; `preflight` samples a few groups from the real model
through the trainer that will train it. Both end in `Finding`s: what is wrong and what to change.
Nothing here imports trl.
"""
