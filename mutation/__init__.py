"""Does a test notice when one operator of the library is another? `python -m mutation.main`."""
