"""Scenes -> patches with image-level labels, and how their pixels become network input.

In: scenes, labelled GeoTIFFs, generated masks. Out: patches on disk and their records, images
(C, H, W) with masks (H, W) in patch codes, and the map of DN to [-1, 1]. It stands on landsat;
training, masks, report, cli and the top level may enter, synthetic and download too.

splits          which scene trains, validates or tests
records         how a scene was cut, and into which patches
cutting         scenes to patches
jobs            many scenes in several processes
store           the files of a patch
prepared        the patches of prepare_landsat8_biome.py
imagery         patches of any imagery: a GeoTIFF each
labelled        labelled GeoTIFFs to such patches
generated       generated masks of scenes onto their patches
statistics      how often values occur in patches
normalisation   DN to [-1, 1] and back
supervision     what labels a network has cost
"""
