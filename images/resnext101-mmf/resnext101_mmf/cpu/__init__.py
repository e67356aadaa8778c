"""How a CPU computes the network: with fewer multiplications, and each image by itself."""
