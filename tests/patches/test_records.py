import numpy as np

from fcd.patches.records import Cutting


def test_the_doubtful_middle_is_left_out():
    cutting = Cutting(10, 10, clear_below=0.05, cloudy_above=0.2)

    def label(cloudy_pixels):
        return cutting.label(np.repeat([2, 1], [cloudy_pixels, 100 - cloudy_pixels]))

    assert [label(n) for n in (0, 5, 6, 20, 21)] == [0, 0, None, None, 1]
    assert cutting.label(np.zeros(100)) is None
