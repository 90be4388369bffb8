"""The data set: the list of the 96 scenes -> scenes on disk, each whole or absent."""
