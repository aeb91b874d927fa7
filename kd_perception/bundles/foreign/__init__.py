"""Detectors that others exported: what their files state, what their outputs hold, and how they become layouts of ours.

One file a family: it says whether the outputs may be its own, looks whether the values agree, and adds what decodes them to the
graph. Nothing here runs a network: `kd_perception.selection.importing` does.
"""
