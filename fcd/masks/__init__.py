"""Weights -> masks: a score of any scene, a threshold, and the files that hold both.

In: a `Scorer`, which a solver hands out, and scenes. Out: scores in [0, 1], masks, their files. It
stands on patches; report, cli and the top level may enter.

scoring      the scorer, and whole scenes scored by it
tiling       a raster of any size in bounded memory
thresholds   chosen, written down, found again
cam          class activation maps
qa           the scene's own quality band as a mask
prediction   masks of any scenes, as files
generated    masks and difference maps of the training scenes
rasters      the files of masks and scores
runtime      scores by ONNX Runtime
export       a network as an ONNX file
"""
