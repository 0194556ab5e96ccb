"""The candidate pool: membership, difficulty strata, schedule and refresh."""
