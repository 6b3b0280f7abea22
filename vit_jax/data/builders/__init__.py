"""TFDS builders that the package brings; `vit-jax prepare NAME` finds them."""
