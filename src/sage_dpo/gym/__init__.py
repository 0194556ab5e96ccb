"""The gym: a procedurally generated reasoning world with known misconceptions, and its small policies.

    arithmetic <- misconceptions <- language <- world <- suites
    tokenizer, world <- policy

Everything derives from a seed, runs without a network, and is small enough for a laptop's CPU.
"""
