"""The motivating experiment (section 4 of the paper): `python -m train.motivation`."""
