"""The L8 Biome data set onto the disk.

In: the list of its scenes, an address or a folder. Out: <biome>/<scene>/… below the output folder,
each scene whole or absent. It stands on landsat; cli and download_landsat8_biome.py may enter.

fetch        one large file over HTTP: resumed, checked, retried within bounds
downloader   scenes fetched, unpacked and put in place
"""
