"""A search for recipes: clean error against certified error on held-out training images."""
