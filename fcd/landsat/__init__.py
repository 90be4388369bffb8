"""What a scene is: files of Landsat-8/9 and of data sets made of them -> windows of DN and masks."""
