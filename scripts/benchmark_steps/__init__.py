"""The parts of benchmark.py: cells, contenders (ours and the peers), clocks, reports.

Nothing here imports TensorFlow, TFDS, clu or ml_collections; torch and timm are
imported by their peer alone.
"""
