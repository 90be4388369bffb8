"""Scenes drawn in the layout of the real ones.

In: a seed. Out: bands, manual mask, quality band and metadata of scenes of L8 Biome, or labelled
images as an own data set has them. It stands on landsat and patches; cli, scripts and tests may
enter.

surface   what the ground is made of, how bright and warm it is
clouds    sun and air, low clouds and their shadows, cirrus, the truth
weather   the skies of wide scenes: overcast, decks, fog, veils, trails, towers
sensor    digital numbers, footprint, quality band
scene     a whole scene, in the order in which the light meets it
layout    scenes and data sets as files
"""
