"""Bounds on pre-activations and margins by interval arithmetic and by Wong and Kolter's dual."""
