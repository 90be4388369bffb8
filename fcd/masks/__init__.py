"""Weights -> masks: a score of any scene, a threshold, and the files that hold both.

In: a `Scorer`, which a solver hands out, and scenes. Out: scores in [0, 1], masks, their files. It
stands on patches; report, cli and the top level may enter.

scoring      the scorer, whole scenes scored by it or by their QA band, the ONNX file
tiling       a raster of any size in bounded memory
runtime      networks as ONNX files, scores by ONNX Runtime
quantisation U-Nets in int8: calibrated, compared with float32
precision    float32, bfloat16 or int8: asked for, or measured and kept
cam          class activation maps
thresholds   chosen, written down, found again
outputs      files of a mask and its score: what is in them, whether they are there
predictor    all that a mask is made by, and its tags
prediction   masks of any scenes, as files
fleet        the same by the workers of a cluster
summary      summary.csv, and the names of outputs
postprocessing  finished masks: small clouds, buffer, shadow
shadows      shadows of clouds by geometry
stac_item    a STAC item beside a mask
generated    masks and difference maps of the training scenes
"""
