"""The evaluation program: clean, attacked and certified error of a network on a test set."""
