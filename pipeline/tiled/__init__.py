"""Rasters of any size: cut into windows, segmented window by window, stitched to one row an instance.

Two stages under one protocol. The windows are a job of their own, whose output lies under `_windows/` of the
job's and is never public; then a stitch shard reads what was found in the windows of its rasters and commits
their rows of `instances` and `images`.
"""
