"""The selection step: which pairs the next optimizer step trains on.

    draw N candidates from the pool -> score them forward-only -> rank and cut -> deal the kept pairs into microbatches

`CandidateStream` is the whole step, without TRL: it owns the pool, the scores that may be used again, the reference
log-probabilities, the token counts and the candidate log, and its state is what a checkpoint holds.
"""
