"""What a scene is.

In: folders, archives and GeoTIFFs of Landsat-8/9, L8 Biome and SPARCS. Out: windows of DN (C, h, w)
and of masks (h, w) in patch codes, and rasters on a scene's grid. It stands on the ground floor;
every room and the top level may enter.

bands       the names and numbers of bands
rasters     GeoTIFFs: grid, nodata, writing
mtl         the metadata of a scene: MTL files
finding     which files make a scene, whatever else lies beside or below them
scenes      a scene, found below a folder and read window by window
stacks      a GeoTIFF with several bands as a scene
products    a scene to predict: folder, archive, MTL file or GeoTIFF
radiometry  DN as those of an overhead sun: reflectance and radiance
sun         how high it stood, by a list of crops or the ID of a scene
archives    tar and zip archives: read where they are, or unpacked with distrust
labels      mask codes
reference   what the clouds of a scene are taken from: manual mask, or quality band as a mask
biome       the 96 scenes of L8 Biome
sparcs      the 80 scenes of SPARCS
"""
