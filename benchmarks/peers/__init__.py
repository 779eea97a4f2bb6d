"""Peers: each script featurizes a folder as its project's documentation shows, in the peers' environment.

    .sightline/peers/bin/python benchmarks/peers/daft_class.py FOLDER --backbone resnet18

The last line that it prints is JSON: images, dim, a checksum of the features, and its seconds without
the start of Python, JVM or cluster. None of them imports Sightline.
"""
