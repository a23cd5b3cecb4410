"""Measuring a credit rule against the truth: exact gradients, known causes, frozen batches.

* `exact`: policies small enough to list every completion, so that bias and variance are numbers;
* `oracle`: tasks whose deciding tokens are known, so that a rule is scored;
* `replay`: one saved window of a real run, several strategies, real gradients;
* `race`: chains whose true advantages are known, raced to a target next to perfect credit;
* `strings`: next-token losses and searches against whole strings, which are all listed;
* `temper`: ways to reach a temperature of whole strings.
"""
