"""Training: the step of every method, and networks that learn against each other."""
