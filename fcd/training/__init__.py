"""Patches -> weights: what a training takes besides networks and batches.

In: batches of patches, networks, settings. Out: losses, checkpoints, curves. It stands on patches;
report, cli and the top level may enter.

losses         of the Fixed-Point GAN and of the supervised networks; the difference map
averaging      the moving average of a network's weights
augmentation   random changes of patches, by albumentations
randomisation  one of them: other suns, air and sensors, in the units of Landsat's DN
amp            which networks train in bfloat16: asked for, or measured
batches        which patches each step sees, and the processes that read them
run            a run: its folder, how it is carried out, what of it a checkpoint holds
checkpoints    the files, checked
loop           bar, log, pictures of translations, stop signals, randomness of a step
profiling      where the time of a step goes
"""
