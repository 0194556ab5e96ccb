"""Speed and memory against a peer in the same run; one module per claim, see docs/performance.md."""
