"""Methods: the learning algorithms. One module a family."""
