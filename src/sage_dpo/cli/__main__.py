"""`python -m sage_dpo.cli`: the command line."""

from sage_dpo.cli import main

main()
