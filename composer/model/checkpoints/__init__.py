"""A base's files: where they are, what fetches and converts them, and what memory they will take."""
