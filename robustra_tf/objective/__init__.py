"""Robustra's objective: what an attack can gain on f where the reference g withstands it."""
