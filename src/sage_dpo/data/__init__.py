"""A user's data as it is: rows from any file, which column holds what, preference rows read as meant."""
