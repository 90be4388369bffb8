"""Runs so small that a test can do several, and what tells whether two of them are the same."""

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.summary.writer import event_file_writer

from fcd.patches.normalisation import Normalization
from fcd.training.run import RunFolder
from solver import FCDSolver, GANSize, Run, SupervisedSolver, Task

# The files of a run's curves are read in the order of their names. Two of one process and second
# differ in a counter that ends the name, where 10 would come before 9.
event_file_writer._global_uid = event_file_writer.AtomicCounter(1_000_000)

CPU = torch.device("cpu")
SIZE = GANSize(g_conv_dim=4, g_repeat_num=1, d_conv_dim=4, d_repeat_num=3)
# The same on a command line, and a U-Net for it.
GAN = ["--image_size", "32", "--g_conv_dim", "4", "--g_repeat_num", "1", "--d_conv_dim", "4",
       "--d_repeat_num", "3"]  # fmt: skip
UNET = ["--encoder", "slim18", "--n_epochs", "1"]


def gan(name, log_step=2, **run):
    run = Run(RunFolder(name), CPU, seed=3, log_step=log_step, **run)
    return FCDSolver(run, SIZE, 32, Normalization.paper(10))


def unet(name, target="mask", log_step=1, **run):
    task = Task("unet", target, "slim18", classifier_head=True)
    run = Run(RunFolder(name), CPU, seed=3, log_step=log_step, **run)
    return SupervisedSolver(run, task, 32, Normalization.paper(10))


def equal(a, b):
    """Whether two checkpoints, or parts of them, are the same to the bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b


def scalars(folder):
    """The curves of a folder of TensorBoard's: tag -> [(step, value)]."""
    events = EventAccumulator(str(folder)).Reload()
    return {
        tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]
    }
