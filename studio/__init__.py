"""The programs that make avatars, and the API that runs them."""
