"""`python -m sage_dpo.config`: print the settings page."""

from sage_dpo.config.page import settings_page

print(settings_page(), end="")
