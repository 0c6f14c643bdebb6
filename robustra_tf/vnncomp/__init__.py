"""Questions as VNN-COMP asks them: a network, a property of it, seconds, and one word back.

Words, witnesses, lists of instances and tables of results are those of the competition.
"""
