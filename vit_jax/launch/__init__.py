"""Jobs for a pod, a cluster or a cloud: rendered, checked, handed to its own tool.

One file a target: what it renders, and the names of its options. No cluster client.
"""
