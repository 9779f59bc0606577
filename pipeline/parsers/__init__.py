"""Face parsers: which networks there are, where weights come from, how they run, how the small one was trained."""
