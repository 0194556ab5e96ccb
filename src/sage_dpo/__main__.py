"""`python -m sage_dpo`: the command line."""

from sage_dpo.cli import main

main()
