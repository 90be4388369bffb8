"""What a scene is: Landsat-8/9 files and data sets made of them -> windows of DN and of masks."""
