"""Files: written whole or not at all, read with their sizes and types checked first."""
