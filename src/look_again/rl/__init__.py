"""BRPO (paper, "BRPO"): rule-based rewards, group advantages and the objective, as plain functions without a trainer.

rewards: the three rewards in TRL's signature. objective: advantages, ratios, KL and loss on tensors.
completions: what rewards read.
"""
