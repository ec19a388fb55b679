"""What lies around a model: label maps, checkpoints, images, and input values made of them."""
