"""How programs are called, speak, stop and draw; nothing here imports TensorFlow at once."""
