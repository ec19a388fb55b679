"""Read and write a model's files: label maps, checkpoints, images, and input values from them."""
