"""A study: the same students by several methods and seeds, trained, scored and compared."""
