"""Public fakes, for users of this package and for our own tests."""
