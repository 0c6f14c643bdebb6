"""How a model and its inputs are taken in, checked, by every entry."""
