"""Products with the weights of bitsandbytes' nf4 layers, at the speed of their bytes."""
