"""The local web page where people rate answers and edit principles (extra `review`)."""
