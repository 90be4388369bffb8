"""Scenes -> patches with image-level labels, and how their pixels become network input.

In: scenes, labelled GeoTIFFs, generated masks. Out: patches on disk and their records, images
(C, H, W) with masks (H, W) in patch codes, and the map of DN to [-1, 1]. It stands on landsat;
training, masks, report, cli and the top level may enter, synthetic and download too.

splits          which scene trains, validates or tests
cutting         scenes to patches, several at the same time, and the record of each
store           the files of a patch
sources         where patches are and how they are read: ours, and those of any imagery
labelled        labelled GeoTIFFs to such patches
crops           crops of many scenes with their manual masks, as the benchmark takes them
folds           which of them train and which test: leave-scenes-out
generated       generated masks of scenes onto their patches
suns            what becomes of their DN by the suns of their scenes
normalisation   DN to [-1, 1] and back, by what values occur in patches
supervision     what labels a network has cost
"""
